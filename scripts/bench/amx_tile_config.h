// Included before every C++ file of llama.cpp where the processor has AMX.
//
// GCC up to 12 at least tells its optimizer that `_tile_loadconfig` reads 8 of the 64 bytes. The
// shapes that ggml writes behind them are then left out as never read, and the first use of a tile
// is an illegal instruction. This says what is really read.
#ifdef __AMX_TILE__
#include <immintrin.h>
#undef _tile_loadconfig
#define _tile_loadconfig(config) \
  __asm__ volatile("ldtilecfg %0" ::"m"(*(const char(*)[64])(config)))
#endif
