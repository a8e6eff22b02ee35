//! The chance that one of k samples is right (HumanEval, arXiv 2107.03374, section 2.1).

/// 1 − C(n − c, k) / C(n, k), without bias: of `n` samples `c` were right. For 1 ≤ k ≤ n.
pub fn pass_at_k(n: usize, c: usize, k: usize) -> f64 {
    if n - c < k {
        return 1.0;
    }
    let factors = (n - c + 1..=n).map(|i| 1.0 - k as f64 / i as f64);
    1.0 - factors.product::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_those_of_the_reference() {
        let golden = include_str!("../tests/golden/pass_at_k.json");
        let rows: Vec<(usize, usize, usize, f64)> = serde_json::from_str(golden).unwrap();
        assert_eq!(rows.len(), 506);
        for (n, c, k, expected) in rows {
            let found = pass_at_k(n, c, k);
            assert!(
                (found - expected).abs() < 1e-13,
                "{n} {c} {k}: {found} {expected}"
            );
        }
    }
}
