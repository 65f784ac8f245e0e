mod architecture;
mod bench;
mod budgets;
mod compare;
mod convert;
mod denoise;
mod doctor;
mod forward;
mod generate;
mod identity;
mod inspect;
mod plan;
mod readiness;
mod verify;

use self::generate::read_embedding;
use crate::failure::Result;

/// What can be done.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    Generate(Box<generate::Arguments>),
    Identity(identity::Arguments),
    Forward(forward::Arguments),
    Denoise(denoise::Arguments),
    Compare(compare::Arguments),
    Convert(convert::Arguments),
    Inspect(inspect::Arguments),
    Doctor(doctor::Arguments),
    Plan(plan::Arguments),
    Verify(Box<verify::Arguments>),
    Bench(bench::Arguments),
}

impl Command {
    pub(crate) fn run(self) -> Result<()> {
        match self {
            Self::Generate(arguments) => generate::run(&arguments),
            Self::Identity(arguments) => identity::run(&arguments),
            Self::Forward(arguments) => forward::run(&arguments),
            Self::Denoise(arguments) => denoise::run(&arguments),
            Self::Compare(arguments) => compare::run(&arguments),
            Self::Convert(arguments) => convert::run(&arguments),
            Self::Inspect(arguments) => inspect::run(&arguments),
            Self::Doctor(arguments) => doctor::run(&arguments),
            Self::Plan(arguments) => plan::run(&arguments),
            Self::Verify(arguments) => verify::run(&arguments),
            Self::Bench(arguments) => bench::run(&arguments),
        }
    }
}
