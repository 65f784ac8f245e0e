//! The thin binary `lighterage`: arguments in, a pipeline assembled, a report out.
//!
//! Nothing is computed here. A command is one file in `commands/`: its arguments (what clap shows as `--help`), and a `run` that puts
//! together what the floors below offer. What commands share lies beside: sizes as people write them, files that appear whole or not
//! at all, progress, signals, the device that the options ask for.
//!
//! *Exit codes.* 0: done. 1: failed, with one line `error: what: why: ...` on stderr, the whole chain of causes in it. 2: the arguments
//! cannot be meant. 130: stopped by Ctrl-C (SIGTERM: 143, SIGHUP: 129), with one such line too, no output half-written. Results go to stdout, progress and errors to
//! stderr.
//!
//! *What is read from outside*: the arguments, the files they name, and where this executable lies (for the bundled model). No
//! environment variable changes a result.
#![deny(unsafe_code)]

mod commands;
mod count;
mod device;
mod failure;
mod gemm_table;
mod hash;
mod inputs;
mod interrupt;
mod json;
mod machine;
mod mapping;
mod model_path;
mod number;
mod output;
mod picture_file;
mod progress;
mod range;
mod report;
mod size;
mod table;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser};

use crate::commands::Command;
use crate::failure::Failure;

/// Runs diffusion transformers bigger than the device's memory, inside a byte budget that is never exceeded.
///
/// The picture does not depend on the budget: the same seed, model and options give the same bytes with 100 GB and with the smallest
/// budget that is accepted.
#[derive(Debug, Parser)]
#[command(name = "lighterage", version, propagate_version = true, max_term_width = 120)]
#[command(after_help = "\
Examples:
  lighterage generate --prompt \"red heart, noto style, white background\" -o heart.png
  lighterage generate --prompt \"...\" --vram 2MiB --seed 1,2,3 -o picture.png
  lighterage inspect assets/demo/base
  lighterage doctor

Sizes are bytes, or with a unit: 12GiB = 12 x 2^30, 12GB = 12 x 10^9. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 stopped by Ctrl-C, \
143 by SIGTERM, 129 by SIGHUP.
Model files are mapped, not copied: do not change or truncate them while a command uses them.")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

fn main() -> ExitCode {
    let matches = taking_negative_numbers(Arguments::command()).get_matches();
    let arguments = Arguments::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    match interrupt::install().map_err(Failure::from).and_then(|()| arguments.command.run()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// What begins with a minus and is a number is an option's value, be it a wrong one: the option says what is right, and a prompt may be `-1`.
fn taking_negative_numbers(command: clap::Command) -> clap::Command {
    let command = command.mut_args(|argument| {
        let takes_values = argument.get_action().takes_values();
        argument.allow_negative_numbers(takes_values)
    });
    command.mut_subcommands(taking_negative_numbers)
}

impl From<Failure> for ExitCode {
    fn from(failure: Failure) -> Self {
        Self::from(failure.code())
    }
}
