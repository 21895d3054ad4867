//! What the shell and `man` want to know of the command line; made from the command line itself.

use std::io::Write;
use std::path::Path;

use anyhow::Context;
use clap::CommandFactory;
use clap_complete::Shell;
use serde_json::json;

use crate::args::Arguments;
use crate::exit::Exit;
use crate::output::Output;

/// `completions SHELL`
pub(crate) fn completions(output: Output, shell: Shell) -> anyhow::Result<Exit> {
    let mut command = Arguments::command();
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut script);
    print(output, "script", script)
}

/// `man [--all FOLDER]`
pub(crate) fn man(output: Output, all: Option<&Path>) -> anyhow::Result<Exit> {
    let command = Arguments::command();
    let Some(folder) = all else {
        let mut page = Vec::new();
        clap_mangen::Man::new(command).render(&mut page)?;
        return print(output, "page", page);
    };
    let cannot = || format!("the pages cannot be written to {}", folder.display());
    std::fs::create_dir_all(folder).with_context(cannot)?;
    clap_mangen::generate_to(command, folder).with_context(cannot)?;
    let said = || format!("the pages are in {}", folder.display());
    output.print(said, &json!({ "folder": folder }));
    Ok(Exit::Done)
}

/// Prints a text as it is: it is for another program.
fn print(output: Output, name: &str, text: Vec<u8>) -> anyhow::Result<Exit> {
    if output.is_json() {
        let text = String::from_utf8(text).context("the text is not UTF-8")?;
        output.print(String::new, &json!({ name: text }));
    } else {
        // A reader that has gone has seen enough.
        let _ = std::io::stdout().write_all(&text);
    }
    Ok(Exit::Done)
}
