// Bulk copies by tensor map.
#include "block.hpp"

namespace emu {

void do_bulk_load(size_t) {}
void check_finished_block() {}
void check_registers(const void*, u32, Place) {}

}  // namespace emu
