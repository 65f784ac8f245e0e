// wgmma: products of a warpgroup that read shared memory, and write registers, until they are waited for.
//
// The reads belong to an agent of the warpgroup's own, not to its four warps: one thread that releases a buffer after the wait
// speaks for all. What the agent may read is what every one of the 128 threads knows.
#include "group.hpp"

#include <cstring>

#include "block.hpp"
#include "device.hpp"

namespace emu {

namespace {

constexpr u32 group_threads = group_warps * warp_lanes, rows = 64, depth = 16, columns_max = 256;

enum class Step : u32 { Product, Fence, Commit, Wait };

struct StepOperand {
    Step step;
    u32 groups;
    const GroupOperands* product;
};

// ---- descriptors (PTX ISA, "Matrix descriptor" and "Canonical layouts")

/// One operand in shared memory.
struct Operand {
    u32 start, leading, stride, swizzle_bytes;
    bool is_transposed;

    /// Address of 8 neighbouring elements. `line`: row of a K-major operand, k of a transposed one; `piece`: which 8 along it.
    u32 piece(u32 line, u32 piece) const {
        if (swizzle_bytes == 0) {
            // Core matrices of 8 lines of 16 bytes. Leading: between those neighbouring in k; stride: in rows or columns.
            const u32 along_k = is_transposed ? line / 8 : piece, across = is_transposed ? piece : line / 8;
            return start + line % 8 * 16 + along_k * leading + across * stride;
        }
        const u32 pieces = swizzle_bytes / 16;
        const u32 block = is_transposed ? piece / pieces * leading : 0;
        return swizzled(start + block + piece % pieces * 16 + line % 8 * swizzle_bytes + line / 8 * stride, swizzle_bytes);
    }
};

Operand decode(u64 descriptor, u32 window, bool is_transposed, Place place) {
    static constexpr u32 swizzles[4] = {0, 128, 64, 32};
    if ((descriptor >> 49 & 7) != 0) {
        fail({Kind::Instruction, block->running, place}, "wgmma descriptor with base offset %u: the emulator knows 0 only",
             static_cast<u32>(descriptor >> 49 & 7));
    }
    const auto field = [&](u32 bit) { return static_cast<u32>(descriptor >> bit & 0x3fff) << 4; };
    return {window + field(0), field(16), field(32), swizzles[descriptor >> 62], is_transposed};
}

/// Calls `each(line, piece, address)` for the 8-element pieces of an operand that is `extent` rows or columns wide.
template <class Each>
void for_pieces(const Operand& operand, u32 extent, Each each) {
    const u32 lines = operand.is_transposed ? depth : extent, pieces = (operand.is_transposed ? extent : depth) / 8;
    for (u32 line = 0; line < lines; line++)
        for (u32 piece = 0; piece < pieces; piece++) each(line, piece, operand.piece(line, piece));
}

// ---- the product

struct Tiles {
    float a[rows][depth], b[depth][columns_max], d[rows][columns_max];
};

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
// Products of bf16 are exact in fp32, so no clone rounds differently.
__attribute__((target_clones("default", "arch=haswell", "arch=skylake-avx512"), optimize("O3")))
#endif
void multiply(Tiles& tiles, u32 n) {
    for (u32 row = 0; row < rows; row++) {
        float* d = tiles.d[row];
        for (u32 k = 0; k < depth; k++) {
            const float a = tiles.a[row][k];
            const float* b = tiles.b[k];
            for (u32 column = 0; column < n; column++) d[column] += a * b[column];
        }
    }
}

float from_bf16(u32 value) { return bits<float>(value << 16); }

void gather_shared(const Operand& operand, u32 extent, float* elements, u32 extent_stride, u32 k_stride) {
    for_pieces(operand, extent, [&](u32 line, u32 piece, u32 address) {
        u16 values[8];
        std::memcpy(values, block->shared.base() + address, sizeof values);
        for (u32 i = 0; i < 8; i++) {
            const u32 k = operand.is_transposed ? line : piece * 8 + i, e = operand.is_transposed ? piece * 8 + i : line;
            elements[e * extent_stride + k * k_stride] = from_bf16(values[i]);
        }
    });
}

void gather_registers(const GroupProduct& product, Tiles& tiles) {
    for (u32 t = 0; t < group_threads; t++) {
        for (u32 i = 0; i < 4; i++) {
            const u32 row = t / 32 * 16 + t % 32 / 4 + i % 2 * 8, column = t % 4 * 2 + i / 2 * 8, pair = product.a_values[t][i];
            tiles.a[row][column] = from_bf16(pair & 0xffff);
            tiles.a[row][column + 1] = from_bf16(pair >> 16);
        }
    }
}

/// Calls `each(accumulator, element of d)` for all that the threads hold.
template <class Each>
void for_accumulators(const GroupProduct& product, Tiles& tiles, Each each) {
    for (u32 t = 0; t < group_threads; t++) {
        for (u32 i = 0; i < product.n / 2; i++) {
            const u32 row = t / 32 * 16 + t % 32 / 4 + i / 2 % 2 * 8, column = i / 4 * 8 + t % 4 * 2 + i % 2;
            each(product.accumulators[t][i], tiles.d[row][column]);
        }
    }
}

void execute(const GroupProduct& product) {
    static thread_local Tiles tiles;
    if (product.a_in_registers)
        gather_registers(product, tiles);
    else
        gather_shared(decode(product.a, product.window, product.a_transposed, product.place), rows, tiles.a[0], depth, 1);
    gather_shared(decode(product.b, product.window, product.b_transposed, product.place), product.n, tiles.b[0], 1, columns_max);
    for_accumulators(product, tiles, [&](float& held, float& d) { d = product.accumulates ? held : 0.0f; });
    multiply(tiles, product.n);
    for_accumulators(product, tiles, [](float& held, float& d) { held = d; });
}

// ---- checks

/// What all threads of the group know. A warp's own lanes know each other's accesses up to their last meeting.
void learn_common(u32 g, std::vector<u32>& known) {
    Clocks& clocks = block->clocks;
    known.assign(clocks.agents(), nobody);
    for (u32 t = g * group_threads; t < (g + 1) * group_threads; t++) {
        const u32* own = clocks.known(t);
        for (u32 a = 0; a < clocks.agents(); a++) {
            const u32 knows = a == block->warp_of(t) ? clocks.known_of_own_warp(t) : own[a];
            known[a] = std::min(known[a], knows);
        }
    }
}

void check_reads(const GroupProduct& product, u32 g) {
    Block& b = *block;
    Group& group = b.groups[g];
    learn_common(g, group.known);
    const Stamp stamp{b.clocks.group_agent(g), 0, product.clock};
    const Actor actor{stamp, group.known.data(), 0, b.running};
    const auto check = [&](u32, u32, u32 address) { b.shared.access(address, 16, actor, stamp, Manner{.is_async_proxy = true}, product.place); };
    if (!product.a_in_registers) for_pieces(decode(product.a, product.window, product.a_transposed, product.place), rows, check);
    for_pieces(decode(product.b, product.window, product.b_transposed, product.place), product.n, check);
}

void check_operands(const GroupOperands& o, const GroupOperands& first, u32 thread, Place place) {
    const bool are_alike = o.a == first.a && o.b == first.b && o.n == first.n && o.accumulates == first.accumulates &&
                           o.a_transposed == first.a_transposed && o.b_transposed == first.b_transposed &&
                           (o.a_registers == nullptr) == (first.a_registers == nullptr);
    if (!are_alike) fail({Kind::Divergence, thread, place}, "operands of a wgmma differ within the warpgroup");
    if (o.n % 8 != 0 || o.n == 0 || o.n > columns_max) fail({Kind::Instruction, thread, place}, "wgmma with n = %u", o.n);
}

// ---- the steps

void start_product(u32 g, Place place) {
    Block& b = *block;
    Group& group = b.groups[g];
    if (!group.is_fenced)
        fail({Kind::Fence, b.running, place}, "the first wgmma after the kernel's start or a wait needs a wgmma.fence before it");
    const auto operands = [&](u32 t) -> const GroupOperands& { return *static_cast<const StepOperand*>(group.operands[t])->product; };
    const GroupOperands& first = operands(0);
    // Owned by the group before anything can fail: a failure abandons this stack.
    group.open.push_back(std::make_unique<GroupProduct>());
    GroupProduct* product = group.open.back().get();
    product->a = first.a;
    product->b = first.b;
    product->n = first.n;
    product->window = b.self().rank * SharedMemory::window_bytes;
    product->a_in_registers = first.a_registers != nullptr;
    product->a_transposed = first.a_transposed;
    product->b_transposed = first.b_transposed;
    product->accumulates = first.accumulates;
    product->place = place;
    for (u32 t = 0; t < group_threads; t++) {
        const u32 thread = g * group_threads + t;
        const GroupOperands& o = operands(t);
        check_operands(o, first, thread, place);
        product->accumulators[t] = o.d;
        std::vector<BusyRegisters>& busy = b.threads[thread].busy;
        busy.push_back({o.d, o.d + o.n / 2, product, false});
        if (o.a_registers == nullptr) continue;
        std::memcpy(product->a_values[t], o.a_registers, sizeof product->a_values[t]);
        busy.push_back({o.a_registers, o.a_registers + 4, product, true});
    }
    if (b.checks()) {
        product->clock = b.clocks.now(b.clocks.group_agent(g));
        check_reads(*product, g);
        b.clocks.advance(b.clocks.group_agent(g));
    }
    if (!b.is_late()) execute(*product);
    b.report.matrix_products++;
}

void retire(u32 g, const GroupProduct& product) {
    Block& b = *block;
    if (b.is_late()) execute(product);
    for (u32 thread = g * group_threads; thread < (g + 1) * group_threads; thread++) {
        std::erase_if(b.threads[thread].busy, [&](const BusyRegisters& busy) { return busy.product == &product; });
        if (!b.checks()) continue;
        u32& known = b.clocks.known(thread)[b.clocks.group_agent(g)];
        known = std::max(known, product.clock);
    }
}

void finish_groups(u32 g, u32 groups) {
    Group& group = block->groups[g];
    const size_t done = group.committed.size() > groups ? group.committed.size() - groups : 0;
    for (size_t i = 0; i < done; i++)
        for (const auto& product : group.committed[i]) retire(g, *product);
    group.committed.erase(group.committed.begin(), group.committed.begin() + static_cast<std::ptrdiff_t>(done));
    group.is_fenced = false;
}

/// All four warps are here.
void act(u32 g, const StepOperand& step, Place place) {
    Group& group = block->groups[g];
    switch (step.step) {
        case Step::Product: return start_product(g, place);
        case Step::Fence: group.is_fenced = true; return;
        case Step::Commit:
            group.committed.push_back(std::move(group.open));
            group.open.clear();
            return;
        case Step::Wait: return finish_groups(g, step.groups);
    }
}

Next act_warp(u32 w, Meeting& meeting, Place place) {
    Block& b = *block;
    const u32 g = w / group_warps;
    if ((g + 1) * group_threads > b.threads_count)
        fail({Kind::Instruction, b.running, place}, "warp %u is in no complete warpgroup: the block has %u threads", w, b.threads_count);
    Group& group = b.groups[g];
    const auto& step = *static_cast<const StepOperand*>(meeting.operands[0]);
    if (group.warps_arrived != 0) {
        const auto& other = *static_cast<const StepOperand*>(group.operands[group.first_thread]);
        if (other.step != step.step || other.groups != step.groups) {
            const u32 thread = g * group_threads + group.first_thread;
            fail({Kind::Divergence, b.running, place, thread, b.threads[thread].place}, "warps of warpgroup %u are at different wgmma instructions", g);
        }
    } else {
        group.first_thread = w % group_warps * warp_lanes;
    }
    std::copy_n(meeting.operands, warp_lanes, group.operands + w % group_warps * warp_lanes);
    if (++group.warps_arrived < group_warps) {
        Clocks::for_lanes(meeting.lanes, [&](u32 lane) { b.threads[w * warp_lanes + lane].wait = Wait::Group; });
        return Next::Stay;
    }
    group.warps_arrived = 0;
    act(g, step, place);
    for (u32 other = g * group_warps; other < (g + 1) * group_warps; other++) wake_lanes(other, all_lanes);
    return Next::GoOn;
}

void enter(const StepOperand& operand, Place place) { meet(Op::Group, all_lanes, &operand, place, act_warp); }

}  // namespace

void group_product(const GroupOperands& operands) { enter({Step::Product, 0, &operands}, __builtin_return_address(0)); }
void group_fence() { enter({Step::Fence, 0, nullptr}, __builtin_return_address(0)); }
void group_commit() { enter({Step::Commit, 0, nullptr}, __builtin_return_address(0)); }
void group_wait(u32 groups) { enter({Step::Wait, groups, nullptr}, __builtin_return_address(0)); }

void check_registers(const void* address, u32 bytes, bool is_write, Place place) {
    const u8* first = static_cast<const u8*>(address);
    for (const BusyRegisters& busy : block->self().busy) {
        if (busy.is_only_read && !is_write) continue;
        if (first + bytes <= static_cast<const u8*>(busy.begin) || first >= static_cast<const u8*>(busy.end)) continue;
        fail({Kind::InFlight, block->running, place, block->running, busy.product->place},
             "%s of a register that a wgmma in flight %s", is_write ? "write" : "read", busy.is_only_read ? "reads" : "accumulates into");
    }
}

namespace {

struct RegistersOperand {
    u32 wanted;
    bool is_release;
};

Next act_registers(u32 w, Meeting& meeting, Place place) {
    Block& b = *block;
    Warp& warp = b.warps[w];
    const auto& [wanted, is_release] = *static_cast<const RegistersOperand*>(meeting.operands[0]);
    if (wanted % 8 != 0 || wanted < 24 || wanted > 256)
        fail({Kind::Instruction, b.running, place}, "setmaxnreg %u: a multiple of 8 from 24 to 256 is needed", wanted);
    if (warp.registers != 0 && (is_release ? wanted > warp.registers : wanted < warp.registers))
        fail({Kind::Instruction, b.running, place}, "setmaxnreg.%s to %u of a warp that has %u", is_release ? "dec" : "inc", wanted, warp.registers);
    warp.registers = wanted;
    warp.registers_place = place;
    u32 sum = 0;
    const u32 warps = static_cast<u32>(b.warps.size()) / b.cluster_blocks(), first = b.self().rank * warps;
    for (u32 i = first; i < first + warps; i++) sum += b.warps[i].registers * warp_lanes;
    if (sum > 65536) fail({Kind::Instruction, b.running, place}, "setmaxnreg %u: the warps together hold %u registers of 65536", wanted, sum);
    return Next::GoOn;
}

void set_registers(const RegistersOperand& operand, Place place) { meet(Op::Registers, all_lanes, &operand, place, act_registers); }

}  // namespace

void release_registers(u32 registers) { set_registers({registers, true}, __builtin_return_address(0)); }
void take_registers(u32 registers) { set_registers({registers, false}, __builtin_return_address(0)); }

void check_registers_of_groups(u32 rank) {
    Block& b = *block;
    const u32 warps = static_cast<u32>(b.warps.size()) / b.cluster_blocks();
    for (u32 w = rank * warps; w < (rank + 1) * warps; w++) {
        const Warp &warp = b.warps[w], &first = b.warps[w / group_warps * group_warps];
        if (warp.registers == first.registers) continue;
        const bool is_first = warp.registers == 0;
        fail({Kind::Instruction, (is_first ? w / group_warps * group_warps : w) * warp_lanes, is_first ? first.registers_place : warp.registers_place},
             "setmaxnreg by warp %u and not by warp %u: all warps of a warpgroup execute it, for the same number", is_first ? w / group_warps * group_warps : w,
             is_first ? w : w / group_warps * group_warps);
    }
}

}  // namespace emu
