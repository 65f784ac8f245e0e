// The test kernels without Rust: for a compiler or a processor that the project's own tests do not run on, as aarch64 under qemu-user
// (docs/EMULATOR.md has the commands). tests/emu is the full suite; this one asks only that right kernels are clean and exact and mistakes found.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "../block.hpp"
#include "params.cuh"

extern "C" int lighterage_emu_launch(const emu::Launch*, emu::Report*, emu::Failure*);

namespace {

using Numbers = std::vector<uint16_t>;

uint16_t to_bf16(float value) { return __float2bfloat16_rn(value).bits; }
float from_bf16(uint16_t value) { return __bfloat162float({value}); }

/// Whole numbers: every sum of products is exact.
Numbers small_numbers(int count, int modulus) {
    Numbers values(static_cast<size_t>(count));
    for (int i = 0; i < count; i++) values[static_cast<size_t>(i)] = to_bf16(static_cast<float>(i * 37 % modulus - 5));
    return values;
}

uint16_t product(const Numbers& x, int row, const Numbers& y, int column, int depth) {
    float sum = 0.0f;
    for (int k = 0; k < depth; k++) sum += from_bf16(x[static_cast<size_t>(row * depth + k)]) * from_bf16(y[static_cast<size_t>(column * depth + k)]);
    return to_bf16(sum);
}

/// A launch and what its result has to be.
struct Family {
    const char* name;
    int mistakes;
    emu::Launch launch;
    std::function<bool()> is_right;
    /// The launch before it, which it overlaps; null if it is alone. `prepare` sets up what both work on.
    const char* before = nullptr;
    std::function<void()> prepare = [] {};
    /// The mistake that source lines alone tell; 0 where there is none.
    int by_lines = 0;
};

bool is_clean(emu::Launch launch, const char* name, const emu::Config& config) {
    launch.name = name;
    launch.config = config;
    emu::Report report;
    emu::Failure failure;
    return lighterage_emu_launch(&launch, &report, &failure) == 0;
}

bool is_clean(const Family& family, int variant, emu::u64 seed, emu::u32 mode) {
    const std::string name = "test_" + std::string(family.name) + "_" + std::to_string(variant);
    emu::Config config = {seed, mode, 1, 232448, 0};
    family.prepare();
    if (family.before == nullptr) return is_clean(family.launch, name.c_str(), config);
    emu::Stream stream;
    emu::Launch launch = family.launch;
    launch.stream = &stream;
    emu::Launch before = launch;
    before.maps_count = 0;
    if (!is_clean(before, family.before, config)) return false;
    config.overlaps = 1;
    return is_clean(launch, name.c_str(), config);
}

/// Whether there is an addr2line for this processor.
bool knows_lines() {
    const auto place = [](auto function) { return reinterpret_cast<emu::Place>(reinterpret_cast<uintptr_t>(function) + 1); };
    return !emu::is_same_line(place(&to_bf16), place(&small_numbers));
}

/// Number of variants, modes and orders that went wrong.
int run(const Family& family) {
    int wrong = 0;
    for (int variant = 0; variant <= family.mistakes; variant++) {
        if (variant != 0 && variant == family.by_lines && !knows_lines()) continue;
        for (emu::u32 mode = 0; mode < 2; mode++) {
            for (emu::u64 seed = 0; seed < 5; seed++) {
                const bool clean = is_clean(family, variant, seed, mode);
                const bool good = variant == 0 ? clean && family.is_right() : !clean;
                if (!good) std::printf("%s %d, mode %u, seed %d: %s\n", family.name, variant, mode, static_cast<int>(seed), clean ? "clean" : "failed");
                wrong += good ? 0 : 1;
            }
        }
    }
    std::printf("%s: %d variants, %d wrong\n", family.name, family.mistakes + 1, wrong);
    return wrong;
}

emu::u64 address(const void* pointer) { return reinterpret_cast<emu::u64>(pointer); }

emu::Launch launch(const TestParams& params, emu::u32 blocks, emu::u32 threads, emu::u32 shared_bytes, const std::vector<emu::Region>& regions) {
    return {nullptr, {blocks, 1, 1}, {threads, 1, 1}, shared_bytes, sizeof(TestParams), 0, static_cast<emu::u32>(regions.size()), 0, blocks, &params, nullptr,
            regions.data(), nullptr, {}};
}

int exchange() {
    std::vector<float> x(256), out(256);
    for (size_t i = 0; i < x.size(); i++) x[i] = static_cast<float>(i);
    const TestParams params{address(x.data()), address(out.data()), 2, 0};
    const std::vector<emu::Region> regions = {{params.x, 1024}, {params.out, 1024}};
    return run({"exchange", 16, launch(params, 2, 128, 0, regions), [&] {
                    for (size_t i = 0; i < out.size(); i++) {
                        const size_t row = i / 128 * 128, mirror = 127 - i % 128;
                        if (out[i] != x[row + mirror] + x[row + (mirror ^ 1)]) return false;
                    }
                    return true;
                }});
}

/// Results are compared by `tests/emu/planted.rs`; here a few of them.
int lanes() {
    std::vector<uint32_t> x(128), out(14 * 128 + 4);
    for (size_t i = 0; i < x.size(); i++) x[i] = static_cast<uint32_t>(i * 37 % 127);
    const TestParams params{address(x.data()), address(out.data()), 0, 0};
    const std::vector<emu::Region> regions = {{params.x, x.size() * 4}, {params.out, out.size() * 4}};
    Family family{"lanes", 17, launch(params, 2, 64, 0, regions), [&] {
                      uint32_t sum = 0;
                      for (size_t i = 0; i < x.size(); i++) {
                          sum += x[i];
                          if (out[i] != x[i / 32 * 32 + (i % 32 * 5 + 3) % 32] || out[11 * 128 + i] != 64) return false;
                      }
                      return out[14 * 128] == sum && out[14 * 128 + 1] == 0u - sum;
                  }};
    family.prepare = [&] { std::fill(out.begin(), out.end(), 0u); };
    family.by_lines = 12;
    return run(family);
}

int stream() {
    constexpr size_t tiles = 5, width = 512;
    std::vector<float> x(tiles * width), out(width);
    for (size_t i = 0; i < x.size(); i++) x[i] = static_cast<float>(i % 97);
    const TestParams params{address(x.data()), address(out.data()), tiles, 0};
    const std::vector<emu::Region> regions = {{params.x, tiles * width * 4}, {params.out, width * 4}};
    return run({"stream", 6, launch(params, 1, 128, 4096, regions), [&] {
                    for (size_t i = 0; i < width; i++) {
                        float sum = 0.0f;
                        for (size_t tile = 0; tile < tiles; tile++) sum += x[tile * width + i];
                        if (out[i] != sum) return false;
                    }
                    return true;
                }});
}

int matrix() {
    const Numbers x = small_numbers(64 * 16, 11);
    Numbers out(64 * 8);
    const TestParams params{address(x.data()), address(out.data()), 0, 0};
    const std::vector<emu::Region> regions = {{params.x, 2048}, {params.out, 1024}};
    return run({"matrix", 4, launch(params, 1, 128, 2048, regions), [&] {
                    for (int i = 0; i < 512; i++)
                        if (out[static_cast<size_t>(i)] != product(x, i / 8, x, i / 128 * 16 + i % 8, 16)) return false;
                    return true;
                }});
}

/// Boxes of 64 columns, in the 128-byte swizzle.
emu::TensorMap map_of(const Numbers& values, emu::u32 rows, emu::u32 columns, emu::u32 box_rows) {
    return {address(values.data()), {columns, rows}, {columns * 2}, {64, box_rows}, 2, 2, 128};
}

int hopper() {
    constexpr int tiles = 5, depth = tiles * 64;
    const Numbers x = small_numbers(64 * depth, 11), y = small_numbers(128 * depth, 13);
    Numbers out(64 * 128);
    const emu::TensorMap maps[3] = {map_of(x, 64, depth, 64), map_of(y, 128, depth, 128), map_of(out, 64, 128, 64)};
    const TestParams params{0, address(out.data()), tiles, 0};
    const std::vector<emu::Region> regions = {{maps[0].address, x.size() * 2}, {maps[1].address, y.size() * 2}, {maps[2].address, out.size() * 2}};
    Family family{"hopper", 27, launch(params, 1, 256, 2 * 24576 + 16384 + 32, regions), [&] {
                      for (int i = 0; i < 64 * 128; i++)
                          if (out[static_cast<size_t>(i)] != product(x, i / 128, y, i % 128, depth)) return false;
                      return true;
                  }};
    family.launch.maps = maps;
    family.launch.maps_count = 3;
    return run(family);
}

int phases() {
    constexpr size_t rounds = 5;
    std::vector<float> x(rounds * 64), out(64);
    for (size_t i = 0; i < x.size(); i++) x[i] = static_cast<float>(i * 37 % 97);
    const TestParams params{address(x.data()), address(out.data()), rounds, 0};
    const std::vector<emu::Region> regions = {{params.x, x.size() * 4}, {params.out, 256}};
    return run({"phases", 6, launch(params, 1, 64, 0, regions), [&] {
                    for (size_t i = 0; i < 64; i++) {
                        float sum = 0.0f;
                        for (size_t round = 0; round < rounds; round++) sum += x[round * 64 + 63 - i] + x[round * 64 + (i ^ 1)];
                        if (out[i] != sum) return false;
                    }
                    return true;
                }});
}

int cluster() {
    constexpr int tiles = 5, depth = tiles * 64;
    const Numbers x = small_numbers(128 * depth, 11), y = small_numbers(128 * depth, 13);
    Numbers out(128 * 128);
    const emu::TensorMap maps[2] = {map_of(x, 128, depth, 64), map_of(y, 128, depth, 64)};
    const TestParams params{0, address(out.data()), tiles, 0};
    const std::vector<emu::Region> regions = {{maps[0].address, x.size() * 2}, {maps[1].address, y.size() * 2}, {params.out, out.size() * 2}};
    Family family{"cluster", 18, launch(params, 2, 256, 2 * 24576 + 32, regions), [&] {
                      for (int i = 0; i < 128 * 128; i++)
                          if (out[static_cast<size_t>(i)] != product(x, i / 128, y, i % 128, depth)) return false;
                      return true;
                  }};
    family.launch.maps = maps;
    family.launch.maps_count = 2;
    return run(family);
}

int neighbours() {
    std::vector<float> x(1024), out(512);
    for (size_t i = 0; i < 512; i++) x[i] = static_cast<float>(i);
    const TestParams params{address(x.data()), address(out.data()), 0, 0};
    const std::vector<emu::Region> regions = {{params.x, 4096}, {params.out, 2048}};
    return run({"neighbours", 3, launch(params, 4, 128, 0, regions), [&] {
                    for (size_t i = 0; i < out.size(); i++)
                        if (out[i] != x[i ^ 128] + x[i ^ 32]) return false;
                    return true;
                }});
}

/// Doubled values, sums, weights, in one buffer.
struct Overlapping {
    static constexpr size_t count = 256;
    std::vector<float> x = std::vector<float>(count);
    alignas(128) float out[3 * count];

    void prepare() {
        for (size_t i = 0; i < count; i++) x[i] = static_cast<float>(i % 13), out[2 * count + i] = static_cast<float>(i % 11);
    }
    bool is_right() const {
        for (size_t i = 0; i < count; i++) {
            const float doubled = 2.0f * static_cast<float>(i % 13);
            if (out[i] != doubled || out[count + i] != doubled + out[2 * count + i]) return false;
        }
        return true;
    }
};

int overlap() {
    Overlapping o;
    const TestParams params{address(o.x.data()), address(o.out), 0, 0};
    const std::vector<emu::Region> regions = {{params.x, 1024}, {params.out, 3072}};
    return run({"overlap", 9, launch(params, 2, 128, 0, regions), [&] { return o.is_right(); }, "test_overlap_first", [&] { o.prepare(); }});
}

int overlap_bulk() {
    Overlapping o;
    const TestParams params{address(o.x.data()), address(o.out), 0, 0};
    const std::vector<emu::Region> regions = {{params.x, 1024}, {params.out, 3072}};
    const auto map = [&](size_t first) { return emu::TensorMap{address(o.out + first), {32, 8}, {128}, {32, 4}, 2, 4, 0}; };
    const emu::TensorMap maps[2] = {map(0), map(256)};
    Family family{"overlap_bulk", 4, launch(params, 2, 128, 1032, regions), [&] { return o.is_right(); }, "test_overlap_first", [&] { o.prepare(); }};
    family.launch.maps = maps;
    family.launch.maps_count = 2;
    return run(family);
}

int boxes() {
    constexpr size_t width = 40, rows = 5, planes = 6;
    alignas(128) float x[planes * rows * width];
    std::vector<float> out(4 * 4 * 32);
    for (size_t i = 0; i < planes * rows * width; i++) x[i] = static_cast<float>(i);
    const emu::TensorMap map{address(x), {width, rows, planes}, {width * 4, rows * width * 4}, {32, 4, 4}, 3, 4, 0};
    const TestParams params{map.address, address(out.data()), 0, 0};
    const std::vector<emu::Region> regions = {{params.x, sizeof(x)}, {params.out, out.size() * 4}};
    Family family{"boxes", 4, launch(params, 1, 128, 2048 + 16, regions), [&] {
                      for (size_t i = 0; i < out.size(); i++)
                          if (out[i] != x[(i / 128 * rows + i / 32 % 4) * width + i % 32]) return false;
                      return true;
                  }};
    family.launch.maps = &map;
    family.launch.maps_count = 1;
    return run(family);
}

}  // namespace

int main() { return exchange() + lanes() + stream() + matrix() + hopper() + phases() + cluster() + neighbours() + overlap() + overlap_bulk() + boxes() == 0 ? 0 : 1; }
