//! Programs that want what is not theirs. Each fails by an assertion where it gets it.

use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use evals::sandbox::{Outcome, Verdict};

use crate::{failed, run, sandbox};

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

/// Attacks that are over at once, and what they come to.
fn quick() -> Vec<(&'static str, String, Verdict)> {
    let home = std::env::home_dir().unwrap_or_default();
    let bait_path = env!("CARGO_MANIFEST_DIR");
    let passed = |name, code: &str| (name, denied(code), Verdict::Passed);
    vec![
        passed(
            "network",
            "import socket\nfor family in (socket.AF_INET, socket.AF_INET6, socket.AF_PACKET, socket.AF_NETLINK):\n    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW):\n        denied(socket.socket, family, kind)\nimport urllib.request\ndenied(urllib.request.urlopen, 'http://127.0.0.1:80/')",
        ),
        passed(
            "names",
            "import socket\ndenied(socket.getaddrinfo, 'example.com', 80)",
        ),
        passed(
            "home",
            &format!(
                "for path in ({home:?}, {bait_path:?}, '/home', '/etc/passwd', '/etc/shadow', '/proc/self/environ', '/proc/1/environ', '/sys', '/var', '/mnt', '/run'):\n    if path.startswith('/root') or path == {home:?}:\n        assert not os.path.exists(path + '/.cargo') and not os.path.exists(path + '/.ssh') and not os.path.exists(path + '/.bashrc')\n    else:\n        denied(os.stat, path)"
            ),
        ),
        passed(
            "environment",
            "expected = {'PATH', 'HOME', 'LANG', 'PYTHONHASHSEED', 'PYTHONDONTWRITEBYTECODE', 'PYTHONUTF8', 'OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS'}\nassert set(os.environ) - {'LC_CTYPE'} == expected, os.environ",
        ),
        passed(
            "writing outside",
            "for path in ('/x', '/usr/x', '/usr/lib/x', '/bin/x', '/lib/x', '/dev/x', '/etc/x', os.path.dirname(os.__file__) + '/x', os.__file__, sys.executable):\n    denied(open, path, 'a')\n    denied(os.mkdir, path + 'y')\ndenied(os.unlink, os.__file__)\ndenied(os.rename, '/usr/bin', '/usr/bun')\ndenied(os.chmod, os.__file__, 0o777)",
        ),
        passed(
            "full disk",
            "def fill():\n    with open('/tmp/big', 'wb') as file:\n        while True:\n            file.write(b'x' * 65536)\ndenied(fill)\nos.remove('/tmp/big')\ndef many():\n    for i in range(100000):\n        open(f'/tmp/{i}', 'w').close()\ndenied(many)",
        ),
        passed(
            "privileges",
            "assert os.getuid() == os.geteuid() == 65534, os.getuid()\nfor call in (os.setuid, os.setgid, os.seteuid, os.setegid):\n    denied(call, 0)\ndenied(os.setgroups, [0])\ndenied(os.setresuid, 0, 0, 0)\nrefused('unshare', 0x10000000)\nrefused('setns', 0, 0)\nrefused('capset', None, None)\nCLONE = 56\nfor flag in (0x10000000, 0x20000, 0x20000000, 0x40000000, 0x8000000, 0x4000000, 0x2000000):\n    refused('syscall', CLONE, flag | 17, 0, 0, 0, 0)\nrefused('syscall', 435, None, 0)\nimport subprocess\nfor tool in ('sudo', 'su', 'mount'):\n    try:\n        assert subprocess.run([tool, 'true'], capture_output=True).returncode != 0\n    except OSError:\n        pass",
        ),
        passed(
            "mounting",
            "refused('mount', b'tmpfs', b'/tmp', b'tmpfs', 0, None)\nrefused('umount2', b'/tmp', 2)\nrefused('pivot_root', b'/tmp', b'/tmp') if hasattr(libc, 'pivot_root') else refused('syscall', 155, b'/tmp', b'/tmp')\nrefused('syscall', 428, -100, b'/', 1)\nrefused('syscall', 430, b'tmpfs', 0)\nrefused('syscall', 442, -100, b'/', 0, None, 0)\ndenied(os.chroot, '/tmp')",
        ),
        passed(
            "calls of the kernel",
            "for number in (101, 310, 311, 312, 298, 321, 323, 425, 426, 427, 246, 320, 175, 313, 176, 167, 168, 169, 248, 249, 250, 172, 173, 163, 304, 303, 317, 438, 434, 272, 308, 159, 164, 227, 170, 171, 319, 133, 29, 68, 240, 453, 462):\n    refused('syscall', number, 0, 0, 0, 0, 0, 0)",
        ),
        passed(
            "devices",
            "assert sorted(os.listdir('/dev')) == ['null', 'random', 'urandom', 'zero'], os.listdir('/dev')\nfor path in ('/dev/mem', '/dev/kmem', '/dev/sda', '/dev/vda', '/dev/tty', '/dev/kvm', '/dev/fuse', '/dev/nvidia0'):\n    denied(open, path)\ndenied(os.mknod, '/tmp/disk', 0o60600, os.makedev(8, 0))\ndenied(os.mknod, '/tmp/null', 0o20600, os.makedev(1, 3))\nopen('/dev/null', 'w').write('x')\nassert len(open('/dev/urandom', 'rb').read(4)) == 4",
        ),
        passed(
            "descriptors",
            "import stat\nopened = []\nfor number in range(1024):\n    try:\n        opened.append((number, stat.S_IFMT(os.fstat(number).st_mode)))\n    except OSError:\n        pass\nassert [number for number, _ in opened] == [0, 1, 2, 4], opened\nassert all(kind == stat.S_IFIFO for number, kind in opened if number), opened\ndenied(os.open, '/proc/self/fd/0', os.O_RDONLY)\ndenied(os.listdir, '/proc/1/root')\nfor number in range(5):\n    denied(os.chdir, f'/proc/self/fd/{number}')",
        ),
        passed(
            "links",
            "os.symlink('/etc/shadow', '/tmp/a'); denied(open, '/tmp/a')\nos.symlink('/', '/tmp/b'); denied(open, '/tmp/b/x', 'w')\nos.symlink('../../../../../../home', '/tmp/c'); denied(os.listdir, '/tmp/c')\ndenied(os.link, sys.executable, '/tmp/d')\nos.chdir('/')\nfor _ in range(50):\n    os.chdir('..')\nassert 'home' not in os.listdir('.') and 'proc' not in os.listdir('.'), os.listdir('.')",
        ),
        passed(
            "the parent",
            "import signal\nassert os.getppid() == 1\nfor number in (9, 15, 19):\n    try:\n        os.kill(1, number)\n    except PermissionError:\n        pass\nfor process in (os.getppid(), 2, 3, 4, 100, 1000):\n    for request in (16, 0x4206):\n        refused('ptrace', request, process, 0, 0)\n    refused('syscall', 310, process, 0, 0, 0, 0, 0)\ntry:\n    os.kill(-1, 9)\nexcept ProcessLookupError:\n    pass",
        ),
        passed(
            "limits",
            "import resource\nfor kind in (resource.RLIMIT_AS, resource.RLIMIT_NPROC, resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE, resource.RLIMIT_CPU):\n    soft, hard = resource.getrlimit(kind)\n    assert hard > 0\n    try:\n        resource.setrlimit(kind, (hard + 1, hard + 1))\n    except (ValueError, OSError):\n        pass\n    else:\n        raise AssertionError(kind)\nassert resource.getrlimit(resource.RLIMIT_CORE) == (0, 0)\ndenied(resource.prlimit, 1, resource.RLIMIT_CPU, (1, 1))\nrefused('nice', -5)",
        ),
        (
            "deep structure",
            "x = []\nfor _ in range(10**6): x = [x]\nrepr(x)".into(),
            failed("RecursionError"),
        ),
        (
            "memory",
            "x = []\nwhile True: x.append(bytearray(1 << 20))".into(),
            Verdict::OutOfMemory,
        ),
        (
            "one large block",
            "bytearray(1 << 40)".into(),
            Verdict::OutOfMemory,
        ),
    ]
}

#[test]
fn what_is_not_a_programs_own_is_out_of_reach() {
    let Some(sandbox) = sandbox() else { return };
    let attacks = Mutex::new(quick());
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let Some((name, code, expected)) = attacks.lock().unwrap().pop() else {
                        return;
                    };
                    let outcome = run(sandbox, &code);
                    if outcome.verdict != expected {
                        failures
                            .lock()
                            .unwrap()
                            .push(format!("{name}: {outcome:#?}"));
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// By the version of Python this is an exception or the end of the process.
#[test]
fn very_deep_recursion_is_no_success() {
    let Some(sandbox) = sandbox() else { return };
    let code = "import sys\nsys.setrecursionlimit(10**9)\nclass A:\n    def __getattr__(self, name):\n        return getattr(self, name)\nA().x";
    let verdict = run(sandbox, code).verdict;
    let is_expected = [
        failed("RecursionError"),
        Verdict::Killed { signal: 11 },
        Verdict::OutOfMemory,
    ];
    assert!(is_expected.contains(&verdict), "{verdict:?}");
}

/// Runs with a short time, and says how long it took in all.
fn run_short(code: &str) -> Option<(Outcome, Duration)> {
    sandbox()?;
    let config = evals::sandbox::SandboxConfig {
        timeout: 2.0,
        ..crate::config()
    };
    let sandbox = evals::sandbox::Sandbox::new(crate::launcher(), &config).unwrap();
    let start = Instant::now();
    let outcome = run(&sandbox, code);
    Some((outcome, start.elapsed()))
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
        let Some((outcome, took)) = run_short(code) else {
            return;
        };
        assert_eq!(outcome.verdict, Verdict::TimedOut, "{code}: {outcome:?}");
        assert!(took < Duration::from_secs(8), "{code}: {took:?}");
    }
}

#[test]
fn endless_output_is_cut() {
    let Some((outcome, took)) = run_short("while True: print('x' * 1000)") else {
        return;
    };
    assert_eq!(outcome.verdict, Verdict::TimedOut);
    assert!(outcome.output_cut);
    assert_eq!(outcome.stdout.len(), 64 << 10);
    assert!(took < Duration::from_secs(8), "{took:?}");
    let Some((outcome, _)) =
        run_short("import sys\nprint('x' * 10**6); print('y' * 10**6, file=sys.stderr)")
    else {
        return;
    };
    assert_eq!(outcome.verdict, Verdict::Passed);
    assert!(outcome.output_cut);
}

#[test]
fn fork_bombs_reach_the_limit_and_leave_nothing() {
    let mark = "mark-of-the-bomb-8161";
    let code = format!(
        "import os, sys, time\nwhile True:\n    try:\n        if os.fork() == 0 and len(os.listdir('/tmp')) < 1000:\n            os.execv(sys.executable, [sys.executable, '-c', 'import os, time\\nwhile True:\\n try:\\n  os.fork()\\n except OSError:\\n  time.sleep(.01)', '{mark}'])\n    except OSError as error:\n        print('full', error.errno, flush=True)\n        time.sleep(.05)"
    );
    let Some((outcome, took)) = run_short(&code) else {
        return;
    };
    assert_eq!(outcome.verdict, Verdict::TimedOut, "{outcome:?}");
    assert!(outcome.stdout.contains("full 11"), "{outcome:?}");
    assert!(took < Duration::from_secs(8), "{took:?}");
    assert_eq!(alive(mark), 0);
}

#[test]
fn daemons_do_not_survive() {
    let mark = "mark-of-the-daemon-8162";
    let code = format!(
        "import os, sys, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        for number in range(5):\n            os.close(number) if number != 3 else None\n        os.execv(sys.executable, [sys.executable, '-c', 'import signal, time\\nfor s in set(signal.Signals) - {{9, 19}}: signal.signal(s, signal.SIG_IGN)\\ntime.sleep(1000)', '{mark}'])\n    os._exit(0)\nos.wait()\ntime.sleep(.2)"
    );
    let Some((outcome, took)) = run_short(&code) else {
        return;
    };
    assert_eq!(outcome.verdict, Verdict::Passed, "{outcome:?}");
    assert!(took < Duration::from_secs(8), "{took:?}");
    assert_eq!(alive(mark), 0);
}

/// What belongs to the user who runs the test can be read outside, and not inside.
#[test]
fn files_of_the_user_are_not_there() {
    let Some(sandbox) = sandbox() else { return };
    let bait = bait();
    let code = format!(
        "import os\nassert not os.path.exists({:?})\nopen('/tmp/trace-8163', 'w').close()",
        bait.file
    );
    assert_eq!(run(sandbox, &code).verdict, Verdict::Passed);
    assert!(!Path::new("/tmp/trace-8163").exists());
}
