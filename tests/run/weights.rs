//! What trained models hold, for comparison.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use safetensors::SafeTensors;
use sha2::{Digest, Sha256};

/// The SHA-256 of a model directory's weights.
pub fn digest(model: &Path) -> String {
    sha256(&fs::read(model.join("model.safetensors")).unwrap())
}

pub fn sha256(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// ‖a − b‖ / ‖b‖ over all f32 tensors of two model directories.
pub fn relative_difference(a: &Path, b: &Path) -> f64 {
    let (a, b) = (read(a), read(b));
    assert!(a.keys().eq(b.keys()));
    let (mut difference, mut norm) = (0.0, 0.0);
    for (name, reference) in &b {
        for (x, y) in a[name].iter().zip(reference) {
            difference += (x - y).powi(2);
            norm += y.powi(2);
        }
    }
    (difference / norm).sqrt()
}

fn read(model: &Path) -> BTreeMap<String, Vec<f64>> {
    let bytes = fs::read(model.join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let values = |bytes: &[u8]| -> Vec<f64> {
        let four = bytes.chunks_exact(4);
        four.map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap())))
            .collect()
    };
    (file.tensors().into_iter())
        .map(|(name, tensor)| {
            assert_eq!(tensor.dtype(), safetensors::Dtype::F32);
            (name, values(tensor.data()))
        })
        .collect()
}
