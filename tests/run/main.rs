//! `distill run` as a user meets it: whole chains, kills, bad input, full disks, a hub.

mod adapters;
mod bad_data;
mod bad_models;
mod bad_recipes;
mod broken_runs;
mod capture;
mod capture_answers;
mod capture_remote;
mod chain;
mod code_quality;
mod cross_tokenizer;
mod dpo;
mod equal_weights;
mod exercises;
mod exports;
mod filters;
mod flags;
mod full_disk;
mod generate;
mod home;
mod hub;
mod instructions;
mod judge;
mod kills;
mod models;
mod packages;
mod profiles;
mod quantization_aware;
mod quantize;
mod rate;
mod real_model;
mod server;
mod surgery;
#[cfg(feature = "vulkan")]
mod vulkan;
mod weights;
