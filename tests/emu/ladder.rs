//! The kernels of `docs/kernel-ladder`, step by step.

mod attention;
mod rms_norm;
