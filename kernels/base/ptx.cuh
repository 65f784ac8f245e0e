// The only file with PTX: one instruction a function, its host twin beside it.
#pragma once
#include "cuda.cuh"

/// The float of the lower half of a pair.
DEVICE float low_bf16(unsigned pair) { return __uint_as_float(pair << 16); }

/// The float of the upper half of a pair.
DEVICE float high_bf16(unsigned pair) { return __uint_as_float(pair & 0xffff0000u); }

/// cvt.rn.bf16x2.f32: two floats rounded to nearest even, `low` in the lower half.
DEVICE unsigned pack_bf16(float low, float high) {
#if defined(__CUDACC__)
    unsigned pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
#else
    return __float2bfloat16_rn(low).bits | static_cast<unsigned>(__float2bfloat16_rn(high).bits) << 16;
#endif
}

/// No instruction: the compiler takes what is in these registers for new, so that what it made of them in one pass is made again in the next and not kept.
DEVICE void forget(uint4& value) {
#if defined(__CUDACC__)
    asm volatile("" : "+r"(value.x), "+r"(value.y), "+r"(value.z), "+r"(value.w));
#else
    static_cast<void>(value);
#endif
}

/// ex2.approx.ftz: 2^x; the host's value is the correctly rounded one, the device's within 2 units in the last place.
DEVICE float exp2_approx(float x) {
#if defined(__CUDACC__)
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#else
    return exp2f(x);
#endif
}

/// rcp.approx.ftz: 1 / x within 1 unit in the last place; what is smaller than any normal number counts as zero. The host's value is the correctly rounded one.
DEVICE float reciprocal_approx(float x) {
#if defined(__CUDACC__)
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#else
    return 1.0f / x;
#endif
}

/// The address of something in shared memory, as the instructions below take it.
DEVICE unsigned shared_address(const void* address) {
#if defined(__CUDACC__)
    return static_cast<unsigned>(__cvta_generic_to_shared(address));
#else
    return emu::shared_address(address);
#endif
}

/// cp.async.cg: 16 bytes into shared memory past L1, the first `source_bytes` from global memory, the others zero; what is not copied is not read.
DEVICE void copy_async16_part(unsigned destination, const void* source, unsigned source_bytes) {
#if defined(__CUDACC__)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(destination), "l"(source), "r"(source_bytes) : "memory");
#else
    emu::copy_async16(destination, source, source_bytes);
#endif
}

/// cp.async.cg: 16 bytes into shared memory past L1; zeros where `is_inside` is false (the source is not read then).
DEVICE void copy_async16(unsigned destination, const void* source, bool is_inside) {
    copy_async16_part(destination, source, is_inside ? 16 : 0);
}

/// cp.async.commit_group: closes this thread's group of copies.
DEVICE void copy_async_commit() {
#if defined(__CUDACC__)
    asm volatile("cp.async.commit_group;" ::: "memory");
#else
    emu::copy_async_commit();
#endif
}

/// cp.async.wait_group: all but the last `groups` groups of this thread have landed. Others see them after a barrier.
template <int groups>
DEVICE void copy_async_wait() {
#if defined(__CUDACC__)
    asm volatile("cp.async.wait_group %0;" ::"n"(groups) : "memory");
#else
    emu::copy_async_wait(groups);
#endif
}

/// ldmatrix.x4: four 8 x 8 matrices; lane i gives the address of row i % 8 of matrix i / 8.
DEVICE void matrix_load4(unsigned (&r)[4], unsigned row_address) {
#if defined(__CUDACC__)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(row_address)
                 : "memory");
#else
    emu::matrix_load(r, row_address, 4, false);
#endif
}

/// ldmatrix.x4.trans: the same, each matrix transposed.
DEVICE void matrix_load4_transposed(unsigned (&r)[4], unsigned row_address) {
#if defined(__CUDACC__)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(row_address)
                 : "memory");
#else
    emu::matrix_load(r, row_address, 4, true);
#endif
}

/// stmatrix.x4 (sm_90 and later): four 8 x 8 matrices to shared memory.
DEVICE void matrix_store4(unsigned row_address, const unsigned (&r)[4]) {
#if defined(__CUDACC__)
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(row_address), "r"(r[0]), "r"(r[1]), "r"(r[2]),
                 "r"(r[3])
                 : "memory");
#else
    emu::matrix_store(row_address, r, 4, false);
#endif
}

/// mma.sync m16n8k16: d[16, 8] += a[16, 16] b[16, 8]; bf16 in, fp32 sums.
DEVICE void product_16816(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
#if defined(__CUDACC__)
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
    const unsigned b[2] = {b0, b1};
    emu::product_16816(d, a, b);
#endif
}

// ---- sm_90: mbarriers, named barriers, bulk copies, warpgroup products

/// mbarrier.init for `count` arrivals a phase.
DEVICE void mbarrier_init(unsigned mbarrier, unsigned count) {
#if defined(__CUDACC__)
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(mbarrier), "r"(count) : "memory");
#else
    emu::mbarrier_init(mbarrier, count);
#endif
}

/// fence.mbarrier_init: the mbarriers that this thread initialised are known to bulk copies.
DEVICE void fence_mbarrier_init() {
#if defined(__CUDACC__)
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#else
    emu::mbarrier_fence_init();
#endif
}

/// mbarrier.arrive
DEVICE void mbarrier_arrive(unsigned mbarrier) {
#if defined(__CUDACC__)
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(mbarrier) : "memory");
#else
    emu::mbarrier_arrive(mbarrier);
#endif
}

/// mbarrier.arrive on the mbarrier of any block of the cluster, at an address from `peer_address`. It releases within its own block only: who waits in another one knows that
/// the products and bulk copies are over which this thread had waited for, but not of its loads and stores. (At cluster scope ptxas puts a MEMBAR.GPU before it.)
DEVICE void mbarrier_arrive_peer(unsigned mbarrier) {
#if defined(__CUDACC__)
    asm volatile("mbarrier.arrive.release.cta.shared::cluster.b64 _, [%0];" ::"r"(mbarrier) : "memory");
#else
    emu::mbarrier_arrive_peer(mbarrier);
#endif
}

/// mbarrier.arrive.expect_tx: arrives, and the phase also waits for `bytes` of bulk copies.
DEVICE void mbarrier_arrive_expect(unsigned mbarrier, unsigned bytes) {
#if defined(__CUDACC__)
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(mbarrier), "r"(bytes) : "memory");
#else
    emu::mbarrier_arrive_expect(mbarrier, bytes);
#endif
}

/// mbarrier.try_wait.parity, until the phase of this parity has ended.
DEVICE void mbarrier_wait(unsigned mbarrier, unsigned parity) {
#if defined(__CUDACC__)
    asm volatile(
        "{\n"
        ".reg .pred done;\n"
        "again:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        "@!done bra again;\n"
        "}" ::"r"(mbarrier),
        "r"(parity)
        : "memory");
#else
    emu::mbarrier_wait(mbarrier, parity);
#endif
}

/// %cluster_ctarank: this block's number in its cluster.
DEVICE unsigned cluster_rank() {
#if defined(__CUDACC__)
    unsigned rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
#else
    return emu::cluster_rank();
#endif
}

/// mapa.shared::cluster: where the same thing lies in the shared memory of the block with that rank.
DEVICE unsigned peer_address(unsigned address, unsigned rank) {
#if defined(__CUDACC__)
    unsigned peer;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(peer) : "r"(address), "r"(rank));
    return peer;
#else
    return emu::peer_address(address, rank);
#endif
}

/// barrier.cluster.arrive.release: every thread of the cluster arrives, and waits before it arrives again.
DEVICE void cluster_arrive() {
#if defined(__CUDACC__)
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
#else
    emu::cluster_arrive();
#endif
}

/// barrier.cluster.wait.acquire: until every thread of the cluster that has not left the kernel has arrived.
DEVICE void cluster_wait() {
#if defined(__CUDACC__)
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#else
    emu::cluster_wait();
#endif
}

/// fence.proxy.async: this thread's stores to shared memory are visible to bulk stores and wgmma that are ordered after it.
DEVICE void fence_proxy_async() {
#if defined(__CUDACC__)
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#else
    emu::fence_proxy_async();
#endif
}

/// bar.sync: waits at barrier `id` (1 to 15) until `threads` threads, a multiple of 32, have come.
DEVICE void named_barrier_sync(unsigned id, unsigned threads) {
#if defined(__CUDACC__)
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
#else
    emu::named_barrier_sync(id, threads);
#endif
}

/// bar.arrive: counts at barrier `id` and goes on.
DEVICE void named_barrier_arrive(unsigned id, unsigned threads) {
#if defined(__CUDACC__)
    asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
#else
    emu::named_barrier_arrive(id, threads);
#endif
}

/// setmaxnreg.dec: this warpgroup gives registers back.
template <int registers>
DEVICE void release_registers() {
#if defined(__CUDACC__)
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(registers));
#else
    emu::release_registers(registers);
#endif
}

/// setmaxnreg.inc: this warpgroup takes registers that another one has given back.
template <int registers>
DEVICE void take_registers() {
#if defined(__CUDACC__)
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(registers));
#else
    emu::take_registers(registers);
#endif
}

/// griddepcontrol.launch_dependents, then .wait (sm_90): lets the launch behind this one begin as soon as every block of this one runs, and waits until all
/// that the launches before it have written is there. Before the first access to memory, in a kernel that `Launch::overlapping` launches; without that it does nothing.
/// One thread of every launch that overlaps has to wait: who waits for a launch that never did does not know that those before it are over.
DEVICE void wait_for_launch_before() {
#if defined(__CUDACC__)
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;\n\tgriddepcontrol.wait;" ::: "memory");
#endif
#else
    emu::wait_for_launch_before();
#endif
}

/// elect.sync: true in one lane of the warp.
DEVICE bool is_elected() {
#if defined(__CUDACC__)
    unsigned is_chosen;
    asm volatile(
        "{\n"
        ".reg .pred chosen;\n"
        "elect.sync _|chosen, 0xffffffff;\n"
        "selp.u32 %0, 1, 0, chosen;\n"
        "}"
        : "=r"(is_chosen));
    return is_chosen != 0;
#else
    return __ffs(static_cast<int>(__ballot_sync(0xffffffffu, 1))) - 1 == static_cast<int>(threadIdx.x % 32);
#endif
}

/// cp.async.bulk.tensor.2d: one box of the tensor to shared memory, counted on the mbarrier; one thread issues it.
DEVICE void bulk_load(unsigned destination, const TensorMap* map, unsigned mbarrier, int x, int y) {
#if defined(__CUDACC__)
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::"r"(destination),
        "l"(map), "r"(mbarrier), "r"(x), "r"(y)
        : "memory");
#else
    const int coordinates[2] = {x, y};
    emu::bulk_load(destination, map, mbarrier, coordinates, 2);
#endif
}

/// cp.async.bulk.tensor.2d.multicast::cluster: the same box to the same place of every block whose bit is set in `blocks`, counted on the mbarrier at the same
/// place there. The box is read once.
DEVICE void bulk_load_multicast(unsigned destination, const TensorMap* map, unsigned mbarrier, unsigned short blocks, int x, int y) {
#if defined(__CUDACC__)
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%4, %5}], [%2], %3;" ::"r"(
            destination),
        "l"(map), "r"(mbarrier), "h"(blocks), "r"(x), "r"(y)
        : "memory");
#else
    const int coordinates[2] = {x, y};
    emu::bulk_load_multicast(destination, map, mbarrier, blocks, coordinates, 2);
#endif
}

/// cp.async.bulk.tensor.2d: one box from shared memory to the tensor, in this thread's open group.
DEVICE void bulk_store(unsigned source, const TensorMap* map, int x, int y) {
#if defined(__CUDACC__)
    asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%1, {%2, %3}], [%0];" ::"r"(source), "l"(map), "r"(x), "r"(y)
                 : "memory");
#else
    const int coordinates[2] = {x, y};
    emu::bulk_store(source, map, coordinates, 2);
#endif
}

/// cp.async.bulk.tensor.3d: one box of the tensor to shared memory, counted on the mbarrier; one thread issues it.
DEVICE void bulk_load(unsigned destination, const TensorMap* map, unsigned mbarrier, int x, int y, int z) {
#if defined(__CUDACC__)
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], [%2];" ::"r"(destination),
        "l"(map), "r"(mbarrier), "r"(x), "r"(y), "r"(z)
        : "memory");
#else
    const int coordinates[3] = {x, y, z};
    emu::bulk_load(destination, map, mbarrier, coordinates, 3);
#endif
}

/// cp.async.bulk.tensor.3d: one box from shared memory to the tensor, in this thread's open group.
DEVICE void bulk_store(unsigned source, const TensorMap* map, int x, int y, int z) {
#if defined(__CUDACC__)
    asm volatile("cp.async.bulk.tensor.3d.global.shared::cta.tile.bulk_group [%1, {%2, %3, %4}], [%0];" ::"r"(source), "l"(map), "r"(x), "r"(y), "r"(z)
                 : "memory");
#else
    const int coordinates[3] = {x, y, z};
    emu::bulk_store(source, map, coordinates, 3);
#endif
}

/// cp.async.bulk.tensor.4d: one box of the tensor to shared memory, counted on the mbarrier; one thread issues it.
DEVICE void bulk_load(unsigned destination, const TensorMap* map, unsigned mbarrier, int x, int y, int z, int w) {
#if defined(__CUDACC__)
    asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6}], [%2];" ::"r"(destination),
        "l"(map), "r"(mbarrier), "r"(x), "r"(y), "r"(z), "r"(w)
        : "memory");
#else
    const int coordinates[4] = {x, y, z, w};
    emu::bulk_load(destination, map, mbarrier, coordinates, 4);
#endif
}

/// cp.async.bulk.tensor.4d: one box from shared memory to the tensor, in this thread's open group.
DEVICE void bulk_store(unsigned source, const TensorMap* map, int x, int y, int z, int w) {
#if defined(__CUDACC__)
    asm volatile("cp.async.bulk.tensor.4d.global.shared::cta.tile.bulk_group [%1, {%2, %3, %4, %5}], [%0];" ::"r"(source), "l"(map), "r"(x), "r"(y), "r"(z), "r"(w)
                 : "memory");
#else
    const int coordinates[4] = {x, y, z, w};
    emu::bulk_store(source, map, coordinates, 4);
#endif
}

/// cp.async.bulk.commit_group
DEVICE void bulk_commit() {
#if defined(__CUDACC__)
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
#else
    emu::bulk_commit();
#endif
}

/// cp.async.bulk.wait_group.read: all but the last `groups` of this thread's stores have read shared memory.
template <int groups>
DEVICE void bulk_wait_read() {
#if defined(__CUDACC__)
    asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(groups) : "memory");
#else
    emu::bulk_wait(groups);
#endif
}

/// wgmma.fence: orders this warpgroup's registers before the products that follow.
DEVICE void group_fence() {
#if defined(__CUDACC__)
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#else
    emu::group_fence();
#endif
}

/// wgmma.commit_group
DEVICE void group_commit() {
#if defined(__CUDACC__)
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#else
    emu::group_commit();
#endif
}

/// wgmma.wait_group: all but the last `groups` groups of products are done.
template <int groups>
DEVICE void group_wait() {
#if defined(__CUDACC__)
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(groups) : "memory");
#else
    emu::group_wait(groups);
#endif
}

/// The swizzle of an operand in shared memory, as the descriptor names it.
enum class Swizzle : unsigned { None = 0, Bytes128 = 1, Bytes64 = 2, Bytes32 = 3 };

/// A descriptor of a wgmma operand in shared memory. `leading` and `stride` in bytes; K-major with a swizzle: `stride` between groups of 8 rows,
/// `leading` unused. Transposed with a swizzle: `leading` between swizzle widths of columns, `stride` between groups of 8 k.
DEVICE uint64_t group_operand(unsigned address, unsigned leading, unsigned stride, Swizzle swizzle) {
    return static_cast<uint64_t>((address & 0x3ffffu) >> 4) | static_cast<uint64_t>(leading >> 4) << 16 |
           static_cast<uint64_t>(stride >> 4) << 32 | static_cast<uint64_t>(swizzle) << 62;
}

#if defined(__CUDACC__)
#define ACCUMULATORS_8(i) \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
#define ACCUMULATORS_32(i) ACCUMULATORS_8(i), ACCUMULATORS_8(i + 8), ACCUMULATORS_8(i + 16), ACCUMULATORS_8(i + 24)
#define ACCUMULATORS_64 ACCUMULATORS_32(0), ACCUMULATORS_32(32)
#define ACCUMULATORS_72 ACCUMULATORS_64, ACCUMULATORS_8(64)
#define ACCUMULATORS_128 ACCUMULATORS_64, ACCUMULATORS_32(64), ACCUMULATORS_32(96)
#define REGISTERS_32 \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define REGISTERS_64 \
    REGISTERS_32 ", " \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define REGISTERS_72 REGISTERS_64 ", %64, %65, %66, %67, %68, %69, %70, %71"
#define REGISTERS_128 \
    REGISTERS_64 ", " \
    "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, " \
    "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, " \
    "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, " \
    "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#endif

/// wgmma m64n64k16: d[64, 64] (+)= a[64, 16] b[16, 64], both from shared memory; `d` is in flight until group_wait.
template <bool a_transposed = false, bool b_transposed = false>
DEVICE void group_product(float (&d)[32], uint64_t a, uint64_t b, bool accumulates) {
#if defined(__CUDACC__)
    asm volatile(
        "{\n"
        ".reg .pred adds;\n"
        "setp.ne.b32 adds, %34, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" REGISTERS_32 "}, %32, %33, adds, 1, 1, %35, %36;\n"
        "}"
        : ACCUMULATORS_32(0)
        : "l"(a), "l"(b), "r"(static_cast<int>(accumulates)), "n"(static_cast<int>(a_transposed)), "n"(static_cast<int>(b_transposed)));
#else
    const emu::GroupOperands operands{d, nullptr, a, b, 64, a_transposed, b_transposed, accumulates};
    emu::group_product(operands);
#endif
}

/// The same with a from registers, laid out as the a of product_16816 in each warp.
template <bool b_transposed = false>
DEVICE void group_product(float (&d)[32], const unsigned (&a)[4], uint64_t b, bool accumulates) {
#if defined(__CUDACC__)
    asm volatile(
        "{\n"
        ".reg .pred adds;\n"
        "setp.ne.b32 adds, %37, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" REGISTERS_32 "}, {%32, %33, %34, %35}, %36, adds, 1, 1, %38;\n"
        "}"
        : ACCUMULATORS_32(0)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(accumulates)), "n"(static_cast<int>(b_transposed)));
#else
    const emu::GroupOperands operands{d, a, 0, b, 64, false, b_transposed, accumulates};
    emu::group_product(operands);
#endif
}

/// wgmma m64n128k16: d[64, 128] (+)= a[64, 16] b[16, 128], both from shared memory; `d` is in flight until group_wait.
template <bool a_transposed = false, bool b_transposed = false>
DEVICE void group_product(float (&d)[64], uint64_t a, uint64_t b, bool accumulates) {
#if defined(__CUDACC__)
    asm volatile(
        "{\n"
        ".reg .pred adds;\n"
        "setp.ne.b32 adds, %66, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" REGISTERS_64 "}, %64, %65, adds, 1, 1, %67, %68;\n"
        "}"
        : ACCUMULATORS_64
        : "l"(a), "l"(b), "r"(static_cast<int>(accumulates)), "n"(static_cast<int>(a_transposed)), "n"(static_cast<int>(b_transposed)));
#else
    const emu::GroupOperands operands{d, nullptr, a, b, 128, a_transposed, b_transposed, accumulates};
    emu::group_product(operands);
#endif
}

/// The same with a from registers, laid out as the a of product_16816 in each warp.
template <bool b_transposed = false>
DEVICE void group_product(float (&d)[64], const unsigned (&a)[4], uint64_t b, bool accumulates) {
#if defined(__CUDACC__)
    asm volatile(
        "{\n"
        ".reg .pred adds;\n"
        "setp.ne.b32 adds, %69, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" REGISTERS_64 "}, {%64, %65, %66, %67}, %68, adds, 1, 1, %70;\n"
        "}"
        : ACCUMULATORS_64
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(accumulates)), "n"(static_cast<int>(b_transposed)));
#else
    const emu::GroupOperands operands{d, a, 0, b, 128, false, b_transposed, accumulates};
    emu::group_product(operands);
#endif
}

/// wgmma m64n144k16: d[64, 144] (+)= a[64, 16] b[16, 144], both from shared memory; `d` is in flight until group_wait.
template <bool a_transposed = false, bool b_transposed = false>
DEVICE void group_product(float (&d)[72], uint64_t a, uint64_t b, bool accumulates) {
#if defined(__CUDACC__)
    asm volatile(
        "{\n"
        ".reg .pred adds;\n"
        "setp.ne.b32 adds, %74, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n144k16.f32.bf16.bf16 {" REGISTERS_72 "}, %72, %73, adds, 1, 1, %75, %76;\n"
        "}"
        : ACCUMULATORS_72
        : "l"(a), "l"(b), "r"(static_cast<int>(accumulates)), "n"(static_cast<int>(a_transposed)), "n"(static_cast<int>(b_transposed)));
#else
    const emu::GroupOperands operands{d, nullptr, a, b, 144, a_transposed, b_transposed, accumulates};
    emu::group_product(operands);
#endif
}

/// wgmma m64n256k16: d[64, 256] (+)= a[64, 16] b[16, 256], both from shared memory; `d` is in flight until group_wait.
template <bool a_transposed = false, bool b_transposed = false>
DEVICE void group_product(float (&d)[128], uint64_t a, uint64_t b, bool accumulates) {
#if defined(__CUDACC__)
    asm volatile(
        "{\n"
        ".reg .pred adds;\n"
        "setp.ne.b32 adds, %130, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {" REGISTERS_128 "}, %128, %129, adds, 1, 1, %131, %132;\n"
        "}"
        : ACCUMULATORS_128
        : "l"(a), "l"(b), "r"(static_cast<int>(accumulates)), "n"(static_cast<int>(a_transposed)), "n"(static_cast<int>(b_transposed)));
#else
    const emu::GroupOperands operands{d, nullptr, a, b, 256, a_transposed, b_transposed, accumulates};
    emu::group_product(operands);
#endif
}

/// The same with a from registers, laid out as the a of product_16816 in each warp.
template <bool b_transposed = false>
DEVICE void group_product(float (&d)[128], const unsigned (&a)[4], uint64_t b, bool accumulates) {
#if defined(__CUDACC__)
    asm volatile(
        "{\n"
        ".reg .pred adds;\n"
        "setp.ne.b32 adds, %133, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {" REGISTERS_128 "}, {%128, %129, %130, %131}, %132, adds, 1, 1, %134;\n"
        "}"
        : ACCUMULATORS_128
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(accumulates)), "n"(static_cast<int>(b_transposed)));
#else
    const emu::GroupOperands operands{d, a, 0, b, 256, false, b_transposed, accumulates};
    emu::group_product(operands);
#endif
}

#if defined(__CUDACC__)
#undef ACCUMULATORS_8
#undef ACCUMULATORS_32
#undef ACCUMULATORS_64
#undef ACCUMULATORS_72
#undef ACCUMULATORS_128
#undef REGISTERS_32
#undef REGISTERS_64
#undef REGISTERS_72
#undef REGISTERS_128
#endif
