// Failures: recording them, leaving the block, and turning places into source lines.
#include "report.hpp"

#include <dlfcn.h>
#include <unistd.h>

#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <map>
#include <mutex>
#include <string>

#include "block.hpp"

namespace emu {

void fail(const Fault& fault, const char* format, ...) {
    Failure& failure = block->failure;
    const u32 threads = block->block_threads, rank = block->threads[fault.thread].rank;
    failure.kind = static_cast<u32>(fault.kind);
    std::memcpy(failure.block, block->members[rank].index, sizeof failure.block);
    failure.thread = fault.thread % threads;
    failure.other_thread = fault.other_thread == nobody ? nobody : fault.other_thread % threads;
    failure.place = reinterpret_cast<u64>(fault.place);
    failure.other_place = reinterpret_cast<u64>(fault.other_place);
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(failure.text, sizeof failure.text, format, arguments);
    va_end(arguments);
    if (fault.other_thread != nobody && fault.other_thread / threads != rank) {
        const size_t length = std::strlen(failure.text);
        std::snprintf(failure.text + length, sizeof failure.text - length, " (the other's block has rank %u)", fault.other_thread / threads);
    }
    block->has_failed = true;
    Fibre abandoned;
    switch_fibre(abandoned, block->main);
    __builtin_unreachable();
}

namespace {

/// What `addr2line` prints for one address: the innermost line first, then the lines it was inlined into.
std::string ask_addr2line(const char* image, u64 offset) {
    char command[4200];
    std::snprintf(command, sizeof command, "addr2line -i -e '%s' 0x%llx 2>/dev/null", image,
                  static_cast<unsigned long long>(offset));
    std::string answer;
    FILE* pipe = popen(command, "r");
    if (pipe == nullptr) return answer;
    char line[1024];
    while (std::fgets(line, sizeof line, pipe) != nullptr) answer += line;
    pclose(pipe);
    return answer;
}

const char* file_name(const char* path) {
    const char* slash = std::strrchr(path, '/');
    return slash == nullptr ? path : slash + 1;
}

/// `vec.cuh:31 in rms_norm.cu:40`: files without folders, the emulator's own wrappers left out where a kernel's line follows.
std::string shorten(const std::string& answer) {
    std::string text;
    for (size_t at = 0; at < answer.size();) {
        const size_t end = std::min(answer.find('\n', at), answer.size());
        std::string line = answer.substr(at, end - at);
        at = end + 1;
        if (const size_t note = line.find(" (discriminator"); note != std::string::npos) line.resize(note);
        const char* name = file_name(line.c_str());
        const bool is_wrapper = std::strncmp(name, "device.hpp", 10) == 0 || std::strncmp(name, "ptx.cuh", 7) == 0;
        if (line.empty() || line[0] == '?' || (is_wrapper && at < answer.size())) continue;
        text += text.empty() ? name : std::string(" in ") + name;
    }
    return text;
}

/// Kernels are linked into the program itself, so its file is the one to ask.
std::string find_line(u64 place) {
    Dl_info info;
    char image[64];
    std::snprintf(image, sizeof image, "/proc/%d/exe", getpid());
    if (place == 0 || dladdr(reinterpret_cast<void*>(place), &info) == 0) return "an unknown place";
    const u64 offset = place - reinterpret_cast<u64>(info.dli_fbase);
    // The address returned to belongs to what follows the call; one byte before lies in the call.
    const std::string line = shorten(ask_addr2line(image, offset - 1));
    if (!line.empty()) return line;
    char raw[300];
    std::snprintf(raw, sizeof raw, "%s+0x%llx", file_name(info.dli_fname), static_cast<unsigned long long>(offset));
    return raw;
}

}  // namespace

size_t describe(u64 place, char* text, size_t bytes) {
    static std::mutex mutex;
    static std::map<u64, std::string> known;
    const std::lock_guard<std::mutex> lock(mutex);
    auto found = known.find(place);
    if (found == known.end()) found = known.emplace(place, find_line(place)).first;
    const size_t length = std::min(found->second.size(), bytes);
    std::memcpy(text, found->second.data(), length);
    return length;
}

}  // namespace emu
