//! Which calls of the kernel a program may make. Everything that is not listed does not exist for it: tracing, mounts,
//! namespaces, keys, BPF, io_uring, modules, changes of user, the network and whatever future kernels add.

use std::collections::BTreeMap;

use nix::libc;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

#[rustfmt::skip]
const ALLOWED: &[i64] = &[
    // Files.
    libc::SYS_read, libc::SYS_write, libc::SYS_readv, libc::SYS_writev, libc::SYS_pread64, libc::SYS_pwrite64,
    libc::SYS_preadv, libc::SYS_pwritev, libc::SYS_open, libc::SYS_openat, libc::SYS_creat, libc::SYS_close,
    libc::SYS_close_range, libc::SYS_stat, libc::SYS_fstat, libc::SYS_lstat, libc::SYS_newfstatat, libc::SYS_statx,
    libc::SYS_statfs, libc::SYS_fstatfs, libc::SYS_lseek, libc::SYS_access, libc::SYS_faccessat, libc::SYS_faccessat2,
    libc::SYS_dup, libc::SYS_dup2, libc::SYS_dup3, libc::SYS_fcntl, libc::SYS_flock, libc::SYS_fsync,
    libc::SYS_fdatasync, libc::SYS_truncate, libc::SYS_ftruncate, libc::SYS_fallocate, libc::SYS_fadvise64,
    libc::SYS_getdents64, libc::SYS_getcwd, libc::SYS_chdir, libc::SYS_fchdir, libc::SYS_rename, libc::SYS_renameat,
    libc::SYS_renameat2, libc::SYS_mkdir, libc::SYS_mkdirat, libc::SYS_rmdir, libc::SYS_link, libc::SYS_linkat,
    libc::SYS_unlink, libc::SYS_unlinkat, libc::SYS_symlink, libc::SYS_symlinkat, libc::SYS_readlink,
    libc::SYS_readlinkat, libc::SYS_chmod, libc::SYS_fchmod, libc::SYS_fchmodat, libc::SYS_umask, libc::SYS_utime,
    libc::SYS_utimes, libc::SYS_utimensat, libc::SYS_sendfile, libc::SYS_copy_file_range,
    // Memory.
    libc::SYS_mmap, libc::SYS_mprotect, libc::SYS_munmap, libc::SYS_mremap, libc::SYS_madvise, libc::SYS_msync,
    libc::SYS_mincore, libc::SYS_brk, libc::SYS_membarrier,
    // Waiting.
    libc::SYS_pipe, libc::SYS_pipe2, libc::SYS_select, libc::SYS_pselect6, libc::SYS_poll, libc::SYS_ppoll,
    libc::SYS_epoll_create, libc::SYS_epoll_create1, libc::SYS_epoll_ctl, libc::SYS_epoll_wait, libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2, libc::SYS_eventfd2, libc::SYS_futex, libc::SYS_futex_waitv, libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep, libc::SYS_pause, libc::SYS_sched_yield,
    // Time.
    libc::SYS_clock_gettime, libc::SYS_clock_getres, libc::SYS_gettimeofday, libc::SYS_time, libc::SYS_times,
    libc::SYS_getitimer, libc::SYS_setitimer, libc::SYS_alarm,
    // Signals.
    libc::SYS_rt_sigaction, libc::SYS_rt_sigprocmask, libc::SYS_rt_sigreturn, libc::SYS_rt_sigpending,
    libc::SYS_rt_sigtimedwait, libc::SYS_rt_sigsuspend, libc::SYS_sigaltstack, libc::SYS_kill, libc::SYS_tkill,
    libc::SYS_tgkill, libc::SYS_restart_syscall,
    // Processes.
    libc::SYS_fork, libc::SYS_vfork, libc::SYS_execve, libc::SYS_exit, libc::SYS_exit_group, libc::SYS_wait4,
    libc::SYS_waitid, libc::SYS_getpid, libc::SYS_getppid, libc::SYS_gettid, libc::SYS_getpgrp, libc::SYS_getpgid,
    libc::SYS_setpgid, libc::SYS_getsid, libc::SYS_setsid, libc::SYS_getuid, libc::SYS_geteuid, libc::SYS_getgid,
    libc::SYS_getegid, libc::SYS_getresuid, libc::SYS_getresgid, libc::SYS_getgroups, libc::SYS_getrlimit,
    libc::SYS_setrlimit, libc::SYS_getrusage, libc::SYS_getpriority, libc::SYS_sched_getaffinity, libc::SYS_getcpu,
    libc::SYS_arch_prctl, libc::SYS_set_tid_address, libc::SYS_set_robust_list, libc::SYS_get_robust_list,
    libc::SYS_rseq, libc::SYS_uname, libc::SYS_sysinfo, libc::SYS_getrandom,
    // Sockets once there are any; see below for which.
    libc::SYS_connect, libc::SYS_bind, libc::SYS_listen, libc::SYS_accept, libc::SYS_accept4, libc::SYS_shutdown,
    libc::SYS_sendto, libc::SYS_recvfrom, libc::SYS_sendmsg, libc::SYS_recvmsg, libc::SYS_getsockname,
    libc::SYS_getpeername, libc::SYS_setsockopt, libc::SYS_getsockopt,
];

/// The bits of `clone` that make namespaces. `clone3`, whose flags a filter cannot see, is not allowed; the C library
/// then calls `clone`.
const NAMESPACES: u64 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u64;

/// The filter as a program for the kernel.
///
/// # Errors
/// A processor that the filter cannot be made for.
pub fn filter() -> Result<BpfProgram, String> {
    let told = |error: seccompiler::BackendError| error.to_string();
    let one_of = |argument: u8, values: &[u64]| -> Result<Vec<SeccompRule>, String> {
        let rules = values.iter().map(|value| {
            let equal = SeccompCmpOp::Eq;
            let condition =
                SeccompCondition::new(argument, SeccompCmpArgLen::Dword, equal, *value)?;
            SeccompRule::new(vec![condition])
        });
        rules.collect::<Result<_, _>>().map_err(told)
    };
    let flags = SeccompCmpOp::MaskedEq(NAMESPACES);
    let without_namespaces =
        SeccompCondition::new(0, SeccompCmpArgLen::Qword, flags, 0).map_err(told)?;
    let local = one_of(0, &[libc::AF_UNIX as u64])?;
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        ALLOWED.iter().map(|call| (*call, Vec::new())).collect();
    rules.extend([
        (
            libc::SYS_clone,
            vec![SeccompRule::new(vec![without_namespaces]).map_err(told)?],
        ),
        (libc::SYS_socket, local.clone()),
        (libc::SYS_socketpair, local),
        // Its own limits only, which it can but lower.
        (libc::SYS_prlimit64, one_of(0, &[0])?),
        (
            libc::SYS_ioctl,
            one_of(
                1,
                &[
                    libc::TCGETS,
                    libc::TIOCGWINSZ,
                    libc::FIONREAD,
                    libc::FIONBIO,
                    libc::FIOCLEX,
                    libc::FIONCLEX,
                ],
            )?,
        ),
        (libc::SYS_prctl, one_of(0, &[libc::PR_SET_NAME as u64])?),
    ]);
    let absent = SeccompAction::Errno(libc::ENOSYS as u32);
    let target = std::env::consts::ARCH.try_into().map_err(told)?;
    let filter = SeccompFilter::new(rules, absent, SeccompAction::Allow, target).map_err(told)?;
    filter.try_into().map_err(told)
}
