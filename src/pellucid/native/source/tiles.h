// Products of bytes with AMX: up to 16 rows by 16 outputs by 64 inputs in one instruction, where this CPU has it (asked at
// run time). Reads the panels of products.h; sums are whole numbers, so they are those of its other tiles, bit for bit.

#pragma once

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace pellucid {

#if defined(__x86_64__) && defined(__linux__) && __has_include(<amxint8intrin.h>) && !defined(PELLUCID_NO_AMX)

// Whether the CPU has AMX and Linux gives this process its registers (8 KiB for each thread that uses them).
inline bool has_tiles() {
    unsigned a = 0, b = 0, c = 0, d = 0;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
    const unsigned needed = 1u << 24 | 1u << 25;  // AMX-TILE, AMX-INT8
    if ((d & needed) != needed) return false;
    constexpr long REQUEST = 0x1023, TILE_DATA = 18;  // ARCH_REQ_XCOMP_PERM: of all threads, now and later
    return syscall(SYS_arch_prctl, REQUEST, TILE_DATA) == 0;
}

// The compiler's own functions do not say that they read memory; these do.
#define PELLUCID_LOAD(number, from, stride) \
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #number ::"r"(from), "r"(stride) : "memory")
#define PELLUCID_STORE(number, to, stride) \
    __asm__ volatile("tilestored %%tmm" #number ", (%0,%1,1)" ::"r"(to), "r"(stride) : "memory")
#define PELLUCID_DOT(sums, activations, weights) \
    __asm__ volatile("tdpbusd %%tmm" #weights ", %%tmm" #activations ", %%tmm" #sums ::)
#define PELLUCID_ZERO(number) __asm__ volatile("tilezero %%tmm" #number ::)

// This thread's tile registers, for `height` (1 to 16) rows of activations; given back at the end.
class Tiles {
   public:
    [[gnu::noinline, gnu::target("amx-tile")]] explicit Tiles(size_t height) {
        struct alignas(64) {
            uint8_t palette = 1, start = 0, reserved[14] = {};
            uint16_t bytes[16] = {};  // of a row
            uint8_t rows[16] = {};
        } shape;
        for (int i = 0; i < 8; ++i) shape.bytes[i] = 64, shape.rows[i] = i < 6 ? static_cast<uint8_t>(height) : 16;
        __asm__ volatile("ldtilecfg %0" ::"m"(shape) : "memory");
    }
    [[gnu::noinline, gnu::target("amx-tile")]] ~Tiles() { __asm__ volatile("tilerelease" ::); }
    Tiles(const Tiles&) = delete;
    Tiles& operator=(const Tiles&) = delete;

    // Two blocks of rows with a panel [inputs / 4][64][4], into sums [height][64] of each. Registers 0 to 3 hold sums, 4 and
    // 5 rows, 6 and 7 weights, which are read once for both blocks.
    [[gnu::noinline, gnu::target("amx-tile,amx-int8")]] void multiply(const uint8_t* rows, const uint8_t* others, size_t stride,
                                                                     const int8_t* panel, size_t inputs, int32_t* out,
                                                                     int32_t* other_out) const {
        constexpr size_t row_bytes = 256;  // of a panel, and of the sums
        for (size_t half = 0; half < 2; ++half) {
            const int8_t* weights = panel + half * 128;
            PELLUCID_ZERO(0);
            PELLUCID_ZERO(1);
            PELLUCID_ZERO(2);
            PELLUCID_ZERO(3);
            for (size_t k = 0; k < inputs; k += 64, weights += 16 * row_bytes) {
                PELLUCID_LOAD(6, weights, row_bytes);
                PELLUCID_LOAD(4, rows + k, stride);
                PELLUCID_LOAD(7, weights + 64, row_bytes);
                PELLUCID_LOAD(5, others + k, stride);
                PELLUCID_DOT(0, 4, 6);
                PELLUCID_DOT(1, 4, 7);
                PELLUCID_DOT(2, 5, 6);
                PELLUCID_DOT(3, 5, 7);
            }
            PELLUCID_STORE(0, out + half * 32, row_bytes);
            PELLUCID_STORE(1, out + half * 32 + 16, row_bytes);
            PELLUCID_STORE(2, other_out + half * 32, row_bytes);
            PELLUCID_STORE(3, other_out + half * 32 + 16, row_bytes);
        }
    }
};

#undef PELLUCID_LOAD
#undef PELLUCID_STORE
#undef PELLUCID_DOT
#undef PELLUCID_ZERO

#else

inline bool has_tiles() { return false; }

class Tiles {
   public:
    explicit Tiles(size_t) {}
    void multiply(const uint8_t*, const uint8_t*, size_t, const int8_t*, size_t, int32_t*, int32_t*) const {}
};

#endif

// Whether products use AMX: where it is there, and no test has forbidden it.
inline std::atomic<bool>& uses_tiles() {
    static std::atomic<bool> answer{has_tiles()};
    return answer;
}

}  // namespace pellucid
