// Launches that overlap: who knows that those before are over, and that somebody has asked at all. What memory says of it is in memory.cpp.
#include "launches.hpp"

#include "block.hpp"

namespace emu {

void wait_for_launch_before() {
    Block& b = *block;
    b.has_waited = true;
    if (b.checks()) b.clocks.known(b.running)[b.clocks.launches_agent()] = 1;
}

void check_waited() {
    Block& b = *block;
    if (b.has_waited || !b.global.has_launches_before()) return;
    const Place first = b.global.first_access();
    fail({Kind::Overlap, b.running, first != nullptr ? first : reinterpret_cast<Place>(reinterpret_cast<uintptr_t>(b.kernel) + 1)},
         "the launch is over, and none of its threads has waited for the launches before: who waits for this one does not know that those are over");
}

}  // namespace emu
