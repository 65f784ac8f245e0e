mod compare;
mod doctor;
mod forward;
mod inspect;

use crate::failure::Result;

/// What can be done.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    Forward(forward::Arguments),
    Compare(compare::Arguments),
    Inspect(inspect::Arguments),
    Doctor(doctor::Arguments),
}

impl Command {
    pub(crate) fn run(self) -> Result<()> {
        match self {
            Self::Forward(arguments) => forward::run(&arguments),
            Self::Compare(arguments) => compare::run(&arguments),
            Self::Inspect(arguments) => inspect::run(&arguments),
            Self::Doctor(arguments) => doctor::run(&arguments),
        }
    }
}
