use super::*;

fn sample(task_id: &str, verdict: Verdict) -> Sample {
    Sample {
        number: 1,
        correct: verdict == Verdict::Passed,
        task_id: task_id.into(),
        sample: 0,
        prompt: String::new(),
        output: String::new(),
        finish_reason: FinishReason::Stop,
        code: String::new(),
        outcome: Outcome {
            verdict,
            stdout: String::new(),
            stderr: String::new(),
            output_cut: false,
            seconds: 0.0,
        },
    }
}

#[test]
fn estimates_are_means_over_tasks() {
    let verdicts = [Verdict::Passed, Verdict::TimedOut];
    let samples: Vec<Sample> = (0..20)
        .map(|i| sample(&format!("{}", i / 10), verdicts[usize::from(i > 0)].clone()))
        .collect();
    let found = summed_up(&samples, 10);
    assert_eq!((found.tasks, found.samples, found.passed), (2, 20, 1));
    let pass_at: Vec<(usize, f64)> = found.pass_at.iter().map(|p| (p.k, p.estimate)).collect();
    assert_eq!(pass_at[0].0, 1);
    assert!((pass_at[0].1 - 0.05).abs() < 1e-12, "{pass_at:?}");
    assert_eq!(pass_at[1], (10, 0.5));
    // The sample standard deviation of 0.1 and 0 over the root of 2.
    assert!((found.standard_error - 0.05).abs() < 1e-12);
    assert_eq!(found.verdicts["timed out"], 19);
}

#[test]
fn records_are_read_back() {
    let kept = sample("a", Verdict::Killed { signal: 9 });
    let line = serde_json::to_string(&kept).unwrap();
    assert_eq!(serde_json::from_str::<Sample>(&line).unwrap(), kept);
}

#[test]
fn values_that_make_no_sense_are_told() {
    assert_eq!(HumanEvalConfig::default().check(), []);
    let wrong = HumanEvalConfig {
        samples: 2,
        top_p: 0.0,
        max_tokens: 0,
        limit: Some(0),
        sandbox: SandboxConfig {
            memory: 1,
            ..SandboxConfig::default()
        },
        ..HumanEvalConfig::default()
    };
    let keys: Vec<String> = wrong.check().into_iter().map(|(key, _)| key).collect();
    let expected = ["samples", "top_p", "max_tokens", "limit", "sandbox.memory"];
    assert_eq!(keys, expected);
}
