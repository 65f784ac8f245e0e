//! What all kernels share: the headers, and a kernel that only shows that kernels run.

pub mod self_test;
