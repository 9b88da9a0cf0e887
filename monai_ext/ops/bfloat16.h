// bfloat16 as the upper half of a float, loaded and stored one value at a time; compilers turn loops of them to vectors.
#pragma once
#include <cstdint>
#include <cstring>

struct bf16 { uint16_t bits; };

inline float load(const float* p) { return *p; }
inline float load(const bf16* p) {
    uint32_t wide = uint32_t(p->bits) << 16;
    float value;
    std::memcpy(&value, &wide, 4);
    return value;
}
inline void store(float* p, float value) { *p = value; }
inline void store(bf16* p, float value) {
    uint32_t wide;
    std::memcpy(&wide, &value, 4);
    uint32_t rounded = (wide + 0x7fff + ((wide >> 16) & 1)) >> 16;  // to nearest, ties to even
    uint32_t nan = (wide >> 16) | 0x40;                             // rounding may turn a NaN into infinity
    p->bits = uint16_t((wide & 0x7fffffff) > 0x7f800000 ? nan : rounded);
}
