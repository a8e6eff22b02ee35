//! Programs that want what is not theirs. Each fails by an assertion where it gets it.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use evals::sandbox::{Outcome, Sandbox, SandboxConfig, Verdict};

use crate::{as_every_user, ends_with, failed, run};

/// Runs what is indented of `code` with `denied`, which wants an `OSError` of each call.
fn denied(code: &str) -> String {
    format!(
        "import os, sys, ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n\
         def denied(call, *a):\n    try:\n        got = call(*a)\n    except (OSError, KeyError) as error:\n        return print(type(error).__name__, error)\n    raise AssertionError(f'{{call}} gave {{got!r}}')\n\
         def refused(name, *a):\n    assert getattr(libc, name)(*a) == -1, name\n    print(name, os.strerror(ctypes.get_errno()))\n{code}"
    )
}

/// Where the test itself could be found from inside.
struct Bait {
    _directory: tempfile::TempDir,
    file: std::path::PathBuf,
}

fn bait() -> Bait {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let file = directory.path().join("secret.txt");
    fs::write(&file, "treasure").unwrap();
    Bait {
        _directory: directory,
        file,
    }
}

/// One test an attack, each as every user there is: it gets nothing and ends well.
macro_rules! attacks {
    ($($name:ident: $code:expr,)*) => {$(
        #[test]
        fn $name() {
            ends_with(&denied(&$code), &[Verdict::Passed]);
        }
    )*};
}

attacks! {
    the_network_is_not_there: r#"
import socket
for family in (socket.AF_INET, socket.AF_INET6, socket.AF_PACKET, socket.AF_NETLINK):
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW):
        denied(socket.socket, family, kind)
import urllib.request
denied(urllib.request.urlopen, 'http://127.0.0.1:80/')"#,
    no_name_is_resolved: r#"
import socket
denied(socket.getaddrinfo, 'example.com', 80)"#,
    homes_and_accounts_are_not_there: format!(
        r#"
for path in ({home:?}, {bait_path:?}, '/home', '/etc/passwd', '/etc/shadow', '/proc/self/environ', '/proc/1/environ', '/sys', '/var', '/mnt', '/run'):
    if path.startswith('/root') or path == {home:?}:
        assert not os.path.exists(path + '/.cargo') and not os.path.exists(path + '/.ssh') and not os.path.exists(path + '/.bashrc')
    else:
        denied(os.stat, path)"#,
        home = std::env::home_dir().unwrap_or_default(),
        bait_path = env!("CARGO_MANIFEST_DIR"),
    ),
    the_environment_is_not_inherited: r#"
expected = {'PATH', 'HOME', 'LANG', 'PYTHONHASHSEED', 'PYTHONDONTWRITEBYTECODE', 'PYTHONUTF8', 'OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS'}
assert set(os.environ) - {'LC_CTYPE'} == expected, os.environ"#,
    nothing_outside_is_written: r#"
for path in ('/x', '/usr/x', '/usr/lib/x', '/bin/x', '/lib/x', '/dev/x', '/etc/x', os.path.dirname(os.__file__) + '/x', os.__file__, sys.executable):
    denied(open, path, 'a')
    denied(os.mkdir, path + 'y')
denied(os.unlink, os.__file__)
denied(os.rename, '/usr/bin', '/usr/bun')
denied(os.chmod, os.__file__, 0o777)"#,
    a_disk_is_filled_to_its_limit_alone: r#"
def fill():
    with open('/tmp/big', 'wb') as file:
        while True:
            file.write(b'x' * 65536)
denied(fill)
os.remove('/tmp/big')
def many():
    for i in range(100000):
        open(f'/tmp/{i}', 'w').close()
denied(many)"#,
    privileges_are_not_raised: r#"
assert os.getuid() == os.geteuid() == 65534, os.getuid()
for call in (os.setuid, os.setgid, os.seteuid, os.setegid):
    denied(call, 0)
denied(os.setgroups, [0])
denied(os.setresuid, 0, 0, 0)
refused('unshare', 0x10000000)
refused('setns', 0, 0)
refused('capset', None, None)
CLONE = 56
for flag in (0x10000000, 0x20000, 0x20000000, 0x40000000, 0x8000000, 0x4000000, 0x2000000):
    refused('syscall', CLONE, flag | 17, 0, 0, 0, 0)
refused('syscall', 435, None, 0)
import subprocess
for tool in ('sudo', 'su', 'mount'):
    try:
        assert subprocess.run([tool, 'true'], capture_output=True).returncode != 0
    except OSError:
        pass"#,
    nothing_is_mounted: r#"
refused('mount', b'tmpfs', b'/tmp', b'tmpfs', 0, None)
refused('umount2', b'/tmp', 2)
refused('pivot_root', b'/tmp', b'/tmp') if hasattr(libc, 'pivot_root') else refused('syscall', 155, b'/tmp', b'/tmp')
refused('syscall', 428, -100, b'/', 1)
refused('syscall', 430, b'tmpfs', 0)
refused('syscall', 442, -100, b'/', 0, None, 0)
denied(os.chroot, '/tmp')"#,
    calls_of_the_kernel_that_no_program_needs_are_refused: r#"
for number in (101, 310, 311, 312, 298, 321, 323, 425, 426, 427, 246, 320, 175, 313, 176, 167, 168, 169, 248, 249, 250, 172, 173, 163, 304, 303, 317, 438, 434, 272, 308, 159, 164, 227, 170, 171, 319, 133, 29, 68, 240, 453, 462):
    refused('syscall', number, 0, 0, 0, 0, 0, 0)"#,
    devices_are_not_opened: r#"
assert sorted(os.listdir('/dev')) == ['null', 'random', 'urandom', 'zero'], os.listdir('/dev')
for path in ('/dev/mem', '/dev/kmem', '/dev/sda', '/dev/vda', '/dev/tty', '/dev/kvm', '/dev/fuse', '/dev/nvidia0'):
    denied(open, path)
denied(os.mknod, '/tmp/disk', 0o60600, os.makedev(8, 0))
denied(os.mknod, '/tmp/null', 0o20600, os.makedev(1, 3))
open('/dev/null', 'w').write('x')
assert len(open('/dev/urandom', 'rb').read(4)) == 4"#,
    no_descriptor_is_inherited: r#"
import stat
opened = []
for number in range(1024):
    try:
        opened.append((number, stat.S_IFMT(os.fstat(number).st_mode)))
    except OSError:
        pass
assert [number for number, _ in opened] == [0, 1, 2, 4], opened
assert all(kind == stat.S_IFIFO for number, kind in opened if number), opened
denied(os.open, '/proc/self/fd/0', os.O_RDONLY)
denied(os.listdir, '/proc/1/root')
for number in range(5):
    denied(os.chdir, f'/proc/self/fd/{number}')"#,
    links_lead_nowhere: r#"
os.symlink('/etc/shadow', '/tmp/a'); denied(open, '/tmp/a')
os.symlink('/', '/tmp/b'); denied(open, '/tmp/b/x', 'w')
os.symlink('../../../../../../home', '/tmp/c'); denied(os.listdir, '/tmp/c')
denied(os.link, sys.executable, '/tmp/d')
os.chdir('/')
for _ in range(50):
    os.chdir('..')
assert 'home' not in os.listdir('.') and 'proc' not in os.listdir('.'), os.listdir('.')"#,
    the_parent_is_neither_killed_nor_traced: r#"
import signal
assert os.getppid() == 1
for number in (9, 15, 19):
    try:
        os.kill(1, number)
    except PermissionError:
        pass
for process in (os.getppid(), 2, 3, 4, 100, 1000):
    for request in (16, 0x4206):
        refused('ptrace', request, process, 0, 0)
    refused('syscall', 310, process, 0, 0, 0, 0, 0)
try:
    os.kill(-1, 9)
except ProcessLookupError:
    pass"#,
    limits_are_not_raised: r#"
import resource
for kind in (resource.RLIMIT_AS, resource.RLIMIT_NPROC, resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE, resource.RLIMIT_CPU):
    soft, hard = resource.getrlimit(kind)
    assert hard > 0
    try:
        resource.setrlimit(kind, (hard + 1, hard + 1))
    except (ValueError, OSError):
        pass
    else:
        raise AssertionError(kind)
assert resource.getrlimit(resource.RLIMIT_CORE) == (0, 0)
denied(resource.prlimit, 1, resource.RLIMIT_CPU, (1, 1))
refused('nice', -5)"#,
}

#[test]
fn memory_ends_at_its_limit() {
    ends_with(
        "x = []\nwhile True: x.append(bytearray(1 << 20))",
        &[Verdict::OutOfMemory],
    );
    ends_with("bytearray(1 << 40)", &[Verdict::OutOfMemory]);
}

#[test]
fn a_very_deep_structure_is_an_error() {
    let code = "x = []\nfor _ in range(10**6): x = [x]\nrepr(x)";
    ends_with(code, &[failed("RecursionError")]);
}

/// By the version of Python this is an exception or the end of the process.
#[test]
fn very_deep_recursion_is_no_success() {
    let code = "import sys\nsys.setrecursionlimit(10**9)\nclass A:\n    def __getattr__(self, name):\n        return getattr(self, name)\nA().x";
    let expected = [
        failed("RecursionError"),
        Verdict::Killed { signal: 11 },
        Verdict::OutOfMemory,
    ];
    ends_with(code, &expected);
}

/// Runs with a short time as every user there is, and says how long it took in all.
fn run_short(code: &str) -> Vec<(Outcome, Duration)> {
    let config = SandboxConfig {
        timeout: 2.0,
        ..crate::config()
    };
    let timed = |(_, sandbox): (&str, Sandbox)| {
        let start = Instant::now();
        (run(&sandbox, code), start.elapsed())
    };
    as_every_user(&config).into_iter().map(timed).collect()
}

/// How many processes of the machine have `mark` among their arguments.
fn alive(mark: &str) -> usize {
    let has_mark = |process: &Path| {
        let line = fs::read(process.join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(mark)
    };
    let processes = fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter(|process| has_mark(&process.path()))
        .count()
}

#[test]
fn what_goes_on_for_ever_is_ended_in_time() {
    for code in [
        "while True: pass",
        "import time\ntime.sleep(1000)",
        "import signal\nfor s in set(signal.Signals) - {9, 19}:\n    signal.signal(s, signal.SIG_IGN)\nwhile True: pass",
        "import threading\ndef f():\n    while True: pass\nfor _ in range(4): threading.Thread(target=f).start()\nf()",
        "import os, time\nos.setsid() if os.getpid() != os.getsid(0) else None\nwhile True: time.sleep(1)",
    ] {
        for (outcome, took) in run_short(code) {
            assert_eq!(outcome.verdict, Verdict::TimedOut, "{code}: {outcome:?}");
            assert!(took < Duration::from_secs(8), "{code}: {took:?}");
        }
    }
}

#[test]
fn endless_output_is_cut() {
    for (outcome, took) in run_short("while True: print('x' * 1000)") {
        assert_eq!(outcome.verdict, Verdict::TimedOut);
        assert!(outcome.output_cut);
        assert_eq!(outcome.stdout.len(), 64 << 10);
        assert!(took < Duration::from_secs(8), "{took:?}");
    }
    let code = "import sys\nprint('x' * 10**6); print('y' * 10**6, file=sys.stderr)";
    for (outcome, _) in run_short(code) {
        assert_eq!(outcome.verdict, Verdict::Passed);
        assert!(outcome.output_cut);
    }
}

#[test]
fn fork_bombs_reach_the_limit_and_leave_nothing() {
    let mark = "mark-of-the-bomb-8161";
    let code = format!(
        "import os, sys, time\nwhile True:\n    try:\n        if os.fork() == 0 and len(os.listdir('/tmp')) < 1000:\n            os.execv(sys.executable, [sys.executable, '-c', 'import os, time\\nwhile True:\\n try:\\n  os.fork()\\n except OSError:\\n  time.sleep(.01)', '{mark}'])\n    except OSError as error:\n        print('full', error.errno, flush=True)\n        time.sleep(.05)"
    );
    for (outcome, took) in run_short(&code) {
        assert_eq!(outcome.verdict, Verdict::TimedOut, "{outcome:?}");
        assert!(outcome.stdout.contains("full 11"), "{outcome:?}");
        assert!(took < Duration::from_secs(8), "{took:?}");
        assert_eq!(alive(mark), 0);
    }
}

#[test]
fn daemons_do_not_survive() {
    let mark = "mark-of-the-daemon-8162";
    let code = format!(
        "import os, sys, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        for number in range(5):\n            os.close(number) if number != 3 else None\n        os.execv(sys.executable, [sys.executable, '-c', 'import signal, time\\nfor s in set(signal.Signals) - {{9, 19}}: signal.signal(s, signal.SIG_IGN)\\ntime.sleep(1000)', '{mark}'])\n    os._exit(0)\nos.wait()\ntime.sleep(.2)"
    );
    for (outcome, took) in run_short(&code) {
        assert_eq!(outcome.verdict, Verdict::Passed, "{outcome:?}");
        assert!(took < Duration::from_secs(8), "{took:?}");
        assert_eq!(alive(mark), 0);
    }
}

/// What belongs to the user who runs the test can be read outside, and not inside.
#[test]
fn files_of_the_user_are_not_there() {
    let bait = bait();
    let code = format!(
        "import os\nassert not os.path.exists({:?})\nopen('/tmp/trace-8163', 'w').close()",
        bait.file
    );
    ends_with(&code, &[Verdict::Passed]);
    assert!(!Path::new("/tmp/trace-8163").exists());
}
