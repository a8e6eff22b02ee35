use clap::Args;

/// What `distill schema` takes.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  distill schema > recipe.schema.json")]
pub struct SchemaArgs {}
