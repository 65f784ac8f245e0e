//! Launches of the matrix products, and of what prepares their operands.

pub mod linear;
pub mod table;
pub mod transpose;
