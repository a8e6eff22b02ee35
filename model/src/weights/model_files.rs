//! A model's open files, of either format, and whether they hold what the configuration calls for.

use std::collections::HashMap;
use std::path::Path;

use super::error::WeightsError;
use super::gguf::Gguf;
use super::gguf_config::ROPE_DIVISORS;
use super::gptq_directory::StoredLayer;
use super::names;
use super::shards::Shards;

const EMBEDDING: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head.weight";

/// Ends of the names of what older files keep and a model computes by itself.
const OF_NO_MATTER: [&str; 5] = [
    ".rotary_emb.inv_freq",
    ".rotary_emb.cos_cached",
    ".rotary_emb.sin_cached",
    ".attn_rot_embd.weight",
    ".attn.masked_bias",
];

#[derive(Debug)]
pub(crate) enum ModelFiles {
    Gguf(Gguf),
    Safetensors(Shards),
}

impl ModelFiles {
    /// What the file calls a tensor.
    fn name_in_file(&self, hf_name: &str) -> String {
        match self {
            ModelFiles::Gguf(_) => names::to_gguf(hf_name).unwrap_or_else(|| hf_name.to_owned()),
            ModelFiles::Safetensors(_) => hf_name.to_owned(),
        }
    }

    /// A tensor's shape, after a look at whether its type is read; `None` if it is missing.
    fn shape(&self, hf_name: &str) -> Result<Option<&[usize]>, WeightsError> {
        match self {
            ModelFiles::Gguf(gguf) => {
                let tensor = names::to_gguf(hf_name).and_then(|name| gguf.tensor(&name));
                Ok(tensor.map(|tensor| tensor.shape.as_slice()))
            }
            ModelFiles::Safetensors(shards) => match shards.find(hf_name) {
                Some((file, tensor)) => {
                    file.check_dtype(hf_name, tensor)?;
                    Ok(Some(&tensor.shape))
                }
                None => Ok(None),
            },
        }
    }

    /// A matrix that is stored in GPTQ's layout.
    pub(crate) fn gptq_layer<'a>(
        &'a self,
        hf_name: &'a str,
        shape: &[usize],
    ) -> Option<StoredLayer<'a>> {
        match self {
            Self::Gguf(_) => None,
            Self::Safetensors(shards) => shards.gptq_layer(hf_name, shape),
        }
    }

    /// Lets go of the memory of a tensor that has been copied.
    pub(crate) fn forget(&self, hf_name: &str) {
        match self {
            Self::Gguf(gguf) => {
                let tensor = names::to_gguf(hf_name).and_then(|name| gguf.tensor(&name));
                tensor.into_iter().for_each(|tensor| gguf.forget(tensor));
            }
            Self::Safetensors(shards) => {
                if let Some((file, tensor)) = shards.find(hf_name) {
                    file.forget(tensor);
                }
            }
        }
    }

    /// The error that a tensor is not there; `path` is the model's.
    pub(crate) fn missing(&self, path: &Path, hf_name: &str) -> WeightsError {
        let hint = match hf_name {
            HEAD => "; does the configuration lack `\"tie_word_embeddings\": true`?",
            _ => "",
        };
        WeightsError::MissingTensor {
            path: path.to_owned(),
            tensor: self.name_in_file(hf_name),
            hint: hint.to_owned(),
        }
    }

    /// Checks that every expected tensor is there, in its shape and in a type that is read.
    pub(crate) fn check_expected(
        &self,
        path: &Path,
        expected: &[(String, Vec<usize>)],
    ) -> Result<(), WeightsError> {
        for (name, expected) in expected {
            if let Some(layer) = self.gptq_layer(name, expected) {
                layer.check()?;
                continue;
            }
            let found = self.shape(name)?.ok_or_else(|| self.missing(path, name))?;
            if found != expected {
                return Err(WeightsError::Shape {
                    path: path.to_owned(),
                    tensor: self.name_in_file(name),
                    found: found.to_vec(),
                    expected: expected.clone(),
                });
            }
        }
        Ok(())
    }

    /// Looks at the tensors that are not expected: an error for those that change what is computed, as all in layers may,
    /// the names in the file of those that nothing is known of, sorted.
    pub(crate) fn check_others(
        &self,
        path: &Path,
        expected: &HashMap<String, Vec<usize>>,
        layers: usize,
    ) -> Result<Vec<String>, WeightsError> {
        let names: Vec<&str> = match self {
            ModelFiles::Gguf(gguf) => gguf.tensors().map(|(name, _)| name).collect(),
            ModelFiles::Safetensors(shards) => shards.names().collect(),
        };
        let mut unknown = Vec::new();
        for name in names {
            let hf_name = match self {
                ModelFiles::Gguf(_) => names::to_hf(name).unwrap_or_else(|| name.to_owned()),
                ModelFiles::Safetensors(shards) => {
                    shards.gptq_matrix(name).unwrap_or_else(|| name.to_owned())
                }
            };
            // RoPE's divisors were read with the configuration; its frequencies follow from it. Masks follow from nothing.
            let ends = |end: &&str| name.ends_with(*end);
            let follows = name == ROPE_DIVISORS || OF_NO_MATTER.iter().any(ends);
            if expected.contains_key(&hf_name) || follows {
                continue;
            }
            let unexpected = |reason: &str| WeightsError::UnexpectedTensor {
                path: path.to_owned(),
                tensor: name.to_owned(),
                reason: reason.to_owned(),
            };
            match self {
                // The model would be untied if it did not repeat the embedding.
                ModelFiles::Gguf(_) if hf_name == HEAD => continue,
                ModelFiles::Safetensors(shards) if hf_name == HEAD => {
                    if shards.are_equal(HEAD, EMBEDDING) {
                        continue;
                    }
                    return Err(unexpected(
                        "the configuration ties the head to the embedding, which differs; is `tie_word_embeddings` to be false?",
                    ));
                }
                _ if changes_the_result(&hf_name, expected) => {
                    return Err(unexpected(
                        "the configuration has no such bias or norm: the result would silently be wrong",
                    ));
                }
                _ => match layer(name) {
                    Some(layer) if layer < layers => {
                        return Err(unexpected(
                            "nothing is known of such a part of a layer: the result would silently be wrong",
                        ));
                    }
                    Some(_) => {
                        return Err(unexpected(&format!(
                            "the configuration has {layers} layers, from 0 on: the result would silently be wrong"
                        )));
                    }
                    None => unknown.push(name.to_owned()),
                },
            }
        }
        unknown.sort_unstable();
        Ok(unknown)
    }
}

/// The number of the layer that a tensor of either format belongs to.
fn layer(name: &str) -> Option<usize> {
    let rest = (name.strip_prefix("model.layers.")).or_else(|| name.strip_prefix("blk."))?;
    rest.split_once('.')?.0.parse().ok()
}

/// A bias of a module of the model, or a norm of the heads of one of its layers.
fn changes_the_result(hf_name: &str, expected: &HashMap<String, Vec<usize>>) -> bool {
    let Some((module, kind)) = hf_name.rsplit_once('.') else {
        return false;
    };
    let is_bias = kind == "bias" && expected.contains_key(&format!("{module}.weight"));
    let is_norm = ["q_norm", "k_norm"].iter().any(|norm| {
        module
            .strip_suffix(norm)
            .is_some_and(|attention| expected.contains_key(&format!("{attention}q_proj.weight")))
    });
    is_bias || is_norm
}
