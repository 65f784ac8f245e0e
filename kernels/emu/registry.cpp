// The kernels by name, and the one entry that Rust calls.
#include <cstdio>
#include <cstring>
#include <memory>

#include "block.hpp"

namespace emu {

namespace {

const Registration* first_kernel = nullptr;

const Registration* find(const char* name) {
    for (const Registration* kernel = first_kernel; kernel != nullptr; kernel = kernel->next)
        if (std::strcmp(kernel->name, name) == 0) return kernel;
    return nullptr;
}

/// Why the launch cannot be done; empty if it can.
void refuse(const Launch& launch, const Registration* kernel, char* text, size_t bytes) {
    const u64 threads = u64{launch.block[0]} * launch.block[1] * launch.block[2];
    const u32 cluster = kernel == nullptr ? 1 : kernel->cluster_blocks;
    text[0] = 0;
    if (kernel == nullptr)
        std::snprintf(text, bytes, "no kernel of this name is compiled in");
    else if (launch.params_bytes != kernel->params_bytes)
        std::snprintf(text, bytes, "%u bytes of parameters given, the kernel takes %u", launch.params_bytes, kernel->params_bytes);
    else if (launch.maps_count != kernel->maps_count)
        std::snprintf(text, bytes, "%u tensor maps given, the kernel takes %u", launch.maps_count, kernel->maps_count);
    else if (threads == 0 || threads > 1024)
        std::snprintf(text, bytes, "%llu threads a block: 1 to 1024 are allowed", static_cast<unsigned long long>(threads));
    else if (launch.block[2] > 64)
        std::snprintf(text, bytes, "%u threads in z: 64 at most are allowed", launch.block[2]);
    else if (launch.grid[0] > 0x7fffffffu || launch.grid[1] > 0xffffu || launch.grid[2] > 0xffffu)
        std::snprintf(text, bytes, "a grid of %u x %u x %u blocks: 2147483647 x 65535 x 65535 at most are allowed", launch.grid[0], launch.grid[1], launch.grid[2]);
    else if (cluster == 0 || cluster > SharedMemory::windows_max)
        std::snprintf(text, bytes, "clusters of %u blocks: 1 to %u are allowed", cluster, SharedMemory::windows_max);
    else if (launch.grid[0] % cluster != 0 || launch.first_block % cluster != 0 || launch.end_block % cluster != 0)
        std::snprintf(text, bytes, "%u blocks in x are no multiple of the cluster's %u", launch.grid[0], cluster);
    else if (cluster > 1 && threads % (group_warps * warp_lanes) != 0)
        std::snprintf(text, bytes, "%llu threads a block: in clusters the emulator wants whole warpgroups", static_cast<unsigned long long>(threads));
    else if (launch.shared_bytes > launch.config.shared_bytes_max)
        std::snprintf(text, bytes, "%u bytes of shared memory wanted, %u are allowed", launch.shared_bytes, launch.config.shared_bytes_max);
}

/// One for each operating system thread: stacks and shadow memory are used again by its next launch.
Block& own_block() {
    static thread_local std::unique_ptr<Block> own;
    if (own == nullptr) own = std::make_unique<Block>();
    return *own;
}

}  // namespace

Registration::Registration(const char* kernel_name, Call kernel_call, u32 params, u32 maps, u32 blocks)
    : name(kernel_name), call(kernel_call), params_bytes(params), maps_count(maps), cluster_blocks(blocks), next(first_kernel) {
    first_kernel = this;
}

}  // namespace emu

extern "C" {

/// Runs a launch to its end. 0: `report` is filled; 1: `failure` is.
int lighterage_emu_launch(const emu::Launch* launch, emu::Report* report, emu::Failure* failure) {
    const emu::Registration* kernel = emu::find(launch->name);
    *failure = emu::Failure{};
    failure->thread = failure->other_thread = emu::nobody;
    emu::refuse(*launch, kernel, failure->text, sizeof failure->text);
    if (failure->text[0] != 0) return 1;
    emu::Block& block = emu::own_block();
    block.launch = *launch;
    block.kernel = kernel->call;
    block.failure = *failure;
    block.members.resize(kernel->cluster_blocks);
    if (!block.stacks.reserve(size_t{kernel->cluster_blocks} * launch->block[0] * launch->block[1] * launch->block[2])) {
        std::snprintf(failure->text, sizeof failure->text, "the system gives no memory for the threads' stacks");
        return 1;
    }
    const bool is_clean = emu::run(block);
    *report = block.report;
    *failure = block.failure;
    return is_clean ? 0 : 1;
}

/// What is remembered of the launches of one stream. `is_behind_anything`: of others before them nothing is known.
emu::Stream* lighterage_emu_stream_new(bool is_behind_anything) {
    auto* stream = new emu::Stream;
    stream->is_behind_anything = is_behind_anything;
    return stream;
}

/// All launches of the stream are over.
void lighterage_emu_stream_finish(emu::Stream* stream) { stream->finish(); }

void lighterage_emu_stream_free(emu::Stream* stream) { delete stream; }

/// Name of kernel `index` in no particular order; null past the last.
const char* lighterage_emu_kernel(uint32_t index) {
    const emu::Registration* kernel = emu::first_kernel;
    for (; kernel != nullptr && index != 0; index--) kernel = kernel->next;
    return kernel == nullptr ? nullptr : kernel->name;
}

/// Bytes of a kernel's parameter struct and its number of tensor maps; false if there is no such kernel.
bool lighterage_emu_parameters(const char* name, uint32_t* params_bytes, uint32_t* maps_count) {
    const emu::Registration* kernel = emu::find(name);
    if (kernel == nullptr) return false;
    *params_bytes = kernel->params_bytes;
    *maps_count = kernel->maps_count;
    return true;
}

/// Blocks of a kernel's clusters, 1 without clusters; 0 if there is no such kernel.
uint32_t lighterage_emu_cluster_blocks(const char* name) {
    const emu::Registration* kernel = emu::find(name);
    return kernel == nullptr ? 0 : kernel->cluster_blocks;
}

/// Writes the source line of a place into `text`; its length, at most `bytes`.
size_t lighterage_emu_describe(uint64_t place, char* text, size_t bytes) { return emu::describe(place, text, bytes); }
}
