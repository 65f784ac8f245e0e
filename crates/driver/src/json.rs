use std::io::Write;

use serde::Serialize;

use crate::failure::Result;

/// Prints a value as JSON: one document, indented.
pub(crate) fn print(value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value)?;
    writeln!(crate::output::stdout(), "{text}")?;
    Ok(())
}
