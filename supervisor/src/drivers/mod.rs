//! What acts on the kernel, the disk and the network; each behind a narrow interface.
