// Launches that begin while those before them in their stream still run, as base/ptx.cuh calls it.
#pragma once

namespace emu {

/// griddepcontrol.wait: the launches before are over, and what they wrote is there. The calling thread knows, and whoever it passes that on to.
void wait_for_launch_before();

}  // namespace emu
