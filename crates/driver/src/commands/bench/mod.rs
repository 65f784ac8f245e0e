//! What can be timed: one file for each subject. Right first, then timed.

mod allocator;
mod kernels;
mod machine;
mod pager;
mod rest;
mod step;
mod timing;
mod tune;

use std::ops::RangeInclusive;

use crate::failure::Result;

/// Measure a part of the program on this machine.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    subject: Subject,
}

/// MB/s of a slowed link: those that `plan` takes in GB/s.
const LINKS: RangeInclusive<f64> = 1e-3..=1e9;

/// Sides of a square product: three such matrices have 24 GiB at most.
const PRODUCTS: RangeInclusive<usize> = 1..=65_536;

#[derive(Debug, clap::Subcommand)]
enum Subject {
    Allocator(allocator::Arguments),
    Kernels(kernels::Arguments),
    Machine(machine::Arguments),
    Pager(pager::Arguments),
    Step(step::Arguments),
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    match &arguments.subject {
        Subject::Allocator(arguments) => allocator::run(arguments),
        Subject::Kernels(arguments) => kernels::run(arguments),
        Subject::Machine(arguments) => machine::run(arguments),
        Subject::Pager(arguments) => pager::run(arguments),
        Subject::Step(arguments) => step::run(arguments),
    }
}
