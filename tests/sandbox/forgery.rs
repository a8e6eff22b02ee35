//! Programs that want to be taken for passed.

use evals::sandbox::{Program, Verdict};

use crate::{EVERY_USER, failed};

const CHECKS: &str = "def check(candidate):\n    assert candidate(2) == 4\n    assert abs(candidate(0.5) - 1) < 1e-6\ncheck(double)\n";
/// What the honest programs of these tests would have to get right.
const WRONG: &str = "def double(x):\n    return 7\n";

#[test]
fn nothing_but_the_end_of_the_checks_is_a_success() {
    let exited = |code| Verdict::Exited { code };
    let wrong = failed("AssertionError");
    let marker_of_frame = "import sys, os\nframe = sys._getframe()\nwhile 'marker' not in frame.f_locals:\n    frame = frame.f_back\n";
    for (name, code, expected) in [
        ("honest", "", wrong.clone()),
        ("leaves", "import os; os._exit(0)", exited(0)),
        ("exits", "import sys; sys.exit()", exited(0)),
        (
            "exits in the check",
            "def double(x):\n    raise SystemExit(0)",
            exited(0),
        ),
        (
            "leaves in the check",
            "import os\ndouble = lambda x: os._exit(0)",
            exited(0),
        ),
        (
            "kills itself",
            "import os; os.kill(os.getpid(), 9)",
            Verdict::Killed { signal: 9 },
        ),
        (
            "other program",
            "import os; os.execv('/bin/true', ['true'])",
            exited(0),
        ),
        (
            "patches exit",
            "import os, sys\nos._exit = sys.exit = lambda *a: None",
            wrong.clone(),
        ),
        (
            "at exit",
            "import atexit, os\natexit.register(os._exit, 0)",
            wrong.clone(),
        ),
        (
            "excepthook",
            "import sys, os\nsys.excepthook = lambda *a: os._exit(0)",
            wrong.clone(),
        ),
        (
            "AssertionError",
            "import builtins\nbuiltins.AssertionError = ZeroDivisionError",
            wrong.clone(),
        ),
        (
            "builtins",
            "import builtins\nbuiltins.abs = lambda x: 0\ndef double(x):\n    return 4",
            wrong.clone(),
        ),
        (
            "shadowed builtins",
            "abs = lambda x: 0\ndef double(x):\n    return 4",
            wrong.clone(),
        ),
        (
            "its own builtins",
            "__builtins__ = {**__builtins__, 'abs': lambda x: 0}\ndef double(x):\n    return 4",
            wrong.clone(),
        ),
        (
            "exec",
            "import builtins\nbuiltins.exec = builtins.compile = lambda *a: None",
            wrong.clone(),
        ),
        (
            "trace",
            "import sys\ndef jump(frame, event, arg):\n    if event == 'line' and frame.f_lineno == 2:\n        frame.f_lineno = 5\n    return jump\nsys.settrace(jump)",
            wrong.clone(),
        ),
        (
            "check of its own",
            "def check(candidate):\n    pass",
            wrong.clone(),
        ),
        (
            "guess",
            "import os\nos.write(4, b'passed')\nos._exit(0)",
            Verdict::Forged,
        ),
        (
            "many guesses",
            "import os\nos.write(4, b'0' * 1000)\nos._exit(0)",
            Verdict::Forged,
        ),
        (
            "frames",
            &format!("{marker_of_frame}os.write(4, frame.f_locals['marker'])\nos._exit(0)"),
            Verdict::Forged,
        ),
        (
            "payload",
            "import os\nos.lseek(3, 0, 0); os.write(4, os.read(3, 32)); os._exit(0)",
            failed("OSError"),
        ),
    ] {
        let code = format!("{WRONG}{code}\n");
        let checks = CHECKS;
        let program = Program {
            code: &code,
            checks,
        };
        for (user, sandbox) in EVERY_USER.iter() {
            let outcome = sandbox.run(program).unwrap();
            assert_eq!(outcome.verdict, expected, "{name}, {user}: {outcome:?}");
        }
    }
}
