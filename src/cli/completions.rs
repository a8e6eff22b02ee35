use clap::{Args, ValueEnum};

/// Print what a shell needs to complete this program's verbs and flags
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  distill completions bash > ~/.local/share/bash-completion/completions/distill\n  \
                  distill completions fish > ~/.config/fish/completions/distill.fish"
)]
pub struct CompletionsArgs {
    #[arg(value_name = "SHELL")]
    pub shell: Shell,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Shell {
    Bash,
    Zsh,
    Fish,
}
