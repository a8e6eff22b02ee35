//! `distill schema`.

use std::io::Write;

use crate::cli::SchemaArgs;
use crate::schema::schema_text;

pub fn run(SchemaArgs {}: SchemaArgs) -> anyhow::Result<()> {
    std::io::stdout().write_all(schema_text().as_bytes())?;
    Ok(())
}
