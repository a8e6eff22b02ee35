//! Learning from what the student writes itself: a share of the sequences of each batch is the student's (GKD, arXiv
//! 2306.13649), perhaps from a buffer of what it wrote some steps ago, with a share that adapts (DistiLLM, arXiv
//! 2402.03898). What comes out is a batch as any other.

pub mod adaptive_share;
pub mod config;
pub mod prompts;
pub mod replay;
pub mod samples;
pub mod scoring_clock;
pub mod student;
