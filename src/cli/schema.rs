use clap::Args;

/// Print the JSON schema of recipes, with which editors complete and check them
///
/// A recipe names its schema in its first line, as those in recipes/ do: #:schema ./recipe.schema.json. taplo and the
/// editors that build on it (Even Better TOML for VS Code) follow that line.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  distill schema > recipe.schema.json")]
pub struct SchemaArgs {}
