//! To come: the simulator.
