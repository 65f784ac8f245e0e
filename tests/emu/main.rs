//! The emulator and the kernels on it: results against the host reference, planted bugs that have to be found, clean kernels that
//! must not be accused.

mod attention;
mod buffer;
mod conv2d;
mod device;
mod elementwise;
mod ladder;
mod layouts;
mod linear;
mod norms;
mod numerics;
mod planted;
mod product;
mod rms_norm;
mod rope;
mod runs;
mod softmax;
