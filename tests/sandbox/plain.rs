//! Ordinary programs are not hindered.

use std::time::Instant;

use evals::sandbox::{Program, Verdict};

use crate::{failed, run, sandbox};

#[test]
fn programs_end_as_they_would_outside() {
    let Some(sandbox) = sandbox() else { return };
    let threads = "import threading, queue\nq = queue.Queue()\nt = [threading.Thread(target=q.put, args=(i,)) for i in range(4)]\n[x.start() for x in t]; [x.join() for x in t]\nassert q.qsize() == 4";
    let asynchronous = "import asyncio\nasync def f():\n    await asyncio.sleep(0.01)\n    return 3\nassert asyncio.run(f()) == 3";
    let modules = "import math, re, json, random, collections, itertools, functools, datetime, decimal, fractions, heapq, bisect, hashlib, string, typing, dataclasses, statistics, copy, time, csv, tempfile, sqlite3\nassert math.isclose(statistics.mean([1, 2]), 1.5)";
    let files = "import tempfile, os\nwith tempfile.NamedTemporaryFile('w+') as f:\n    f.write('x'); f.seek(0); assert f.read() == 'x'\nopen('own.py', 'w').write('y = 2')\nimport own\nassert own.y == 2 and os.getcwd() == '/tmp'";
    let children = "import subprocess, sys\nassert subprocess.run([sys.executable, '-c', 'print(6 * 7)'], capture_output=True).stdout == b'42\\n'";
    let main = "if __name__ == '__main__':\n    ran = True\nassert ran";
    for (code, expected) in [
        ("", Verdict::Passed),
        ("assert 1 + 1 == 2", Verdict::Passed),
        (threads, Verdict::Passed),
        (asynchronous, Verdict::Passed),
        (modules, Verdict::Passed),
        (files, Verdict::Passed),
        (children, Verdict::Passed),
        (main, Verdict::Passed),
        ("assert 1 + 1 == 3", failed("AssertionError")),
        ("x = (1", failed("SyntaxError")),
        ("import no_such_module", failed("ModuleNotFoundError")),
        (
            "def f(n):\n    return f(n + 1)\nf(0)",
            failed("RecursionError"),
        ),
        ("input()", failed("EOFError")),
        ("import sys; sys.exit(3)", Verdict::Exited { code: 3 }),
        ("import os; os.abort()", Verdict::Killed { signal: 6 }),
    ] {
        let outcome = run(sandbox, code);
        assert_eq!(outcome.verdict, expected, "{code}: {outcome:?}");
    }
}

#[test]
fn checks_see_the_names_of_the_code() {
    let Some(sandbox) = sandbox() else { return };
    let code = "def double(x):\n    print('called')\n    return 2 * x\n";
    for (checks, expected) in [
        ("assert double(2) == 4", Verdict::Passed),
        ("assert double(2) == 5", failed("AssertionError")),
        ("assert triple(2) == 6", failed("NameError")),
    ] {
        let outcome = sandbox.run(Program { code, checks }).unwrap();
        assert_eq!(outcome.verdict, expected, "{outcome:?}");
        let printed = if checks.contains("double") {
            "called\n"
        } else {
            ""
        };
        assert_eq!(outcome.stdout, printed);
    }
}

/// Not a measurement of anything: only that it is no matter of seconds.
#[test]
fn several_programs_run_at_a_time() {
    let Some(sandbox) = sandbox() else { return };
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let outcome = run(sandbox, "import time; time.sleep(1)");
                assert_eq!(outcome.verdict, Verdict::Passed, "{outcome:?}");
            });
        }
    });
    assert!(start.elapsed().as_secs_f64() < 7.0, "{:?}", start.elapsed());
}

#[test]
fn hashes_are_the_same_in_every_run() {
    let Some(sandbox) = sandbox() else { return };
    let print = || run(sandbox, "print(hash('a'), list({'a', 'b', 'c', 'd'}))").stdout;
    assert_eq!(print(), print());
}
