//! What is generated from the definitions of the arguments: completions for shells, and the manual.

use std::io;

use clap::Command;
use clap_complete::Shell;
use clap_mangen::{
    Man,
    roff::{Roff, bold, roman},
};

use crate::help::{self, Section};

/// A script that completes command lines of `redlock`.
pub(crate) fn completions(definitions: &Command, shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut public(definitions), "redlock", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// The manual's page about a subcommand, or the one about `redlock` itself, in roff.
pub(crate) fn page(definitions: &Command, subcommand: Option<&str>) -> io::Result<String> {
    let mut definitions = public(definitions);
    definitions.build();
    let (subject, sections): (_, &[Section]) =
        match subcommand.and_then(|name| definitions.find_subcommand(name)) {
            Some(subcommand) => (subcommand.clone().version(VERSION), sections(subcommand.get_name())),
            None => (definitions, &help::PAGES),
        };
    let has_subcommands = subject.has_subcommands();
    let usage = subject.clone().render_usage().to_string();
    let man = Man::new(subject).manual("Redlock").source(format!("redlock {VERSION}"));
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    // Its own synopsis would have neither the `--` before the command nor the dots.
    section("SYNOPSIS", usage.trim_start_matches("Usage: ")).to_writer(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if has_subcommands {
        man.render_subcommands_section(&mut page)?;
    }
    for (title, text) in sections {
        section(title, text).to_writer(&mut page)?;
    }
    Ok(String::from_utf8_lossy(&page).into_owned())
}

/// Of indented lines, those with two columns are items with an explanation, which goes on in lines that are
/// indented further. Others are to be kept as they are.
fn section(title: &str, text: &str) -> Roff {
    let mut section = Roff::default();
    section.control("SH", [title]);
    let mut was_indented = false;
    for line in text.lines().filter(|line| *line != "Examples:") {
        let is_indented = line.starts_with("  ");
        if was_indented && !is_indented {
            section.control("PP", []);
        }
        was_indented = is_indented;
        match line.strip_prefix("  ").map(|item| (item, item.split_once("  "))) {
            None => section.text([roman(line)]),
            Some((_, Some(("", more)))) => section.text([roman(more.trim_start())]),
            Some((_, Some((item, explanation)))) => {
                section.control("TP", []).text([bold(item)]).text([roman(explanation.trim_start())])
            }
            Some((item, None)) => {
                section.control("nf", []).text([roman("  "), roman(item)]).control("fi", [])
            }
        };
    }
    section
}

fn sections(subcommand: &str) -> &'static [Section] {
    match subcommand {
        "run" => &help::RUN,
        "status" => &help::STATUS,
        _ => &help::COMPLETIONS,
    }
}

/// Without the subcommands that are hidden.
fn public(definitions: &Command) -> Command {
    let shown = definitions.get_subcommands().filter(|subcommand| !subcommand.is_hide_set()).cloned();
    let about = definitions.get_about().cloned().unwrap_or_default();
    Command::new("redlock").version(VERSION).about(about).disable_help_subcommand(true).subcommands(shown)
}

const VERSION: &str = env!("CARGO_PKG_VERSION");
