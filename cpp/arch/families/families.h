// The family files that exist. Adding one: a .cpp beside this header, its line here, and its line
// in family.cpp.
#pragma once

#include "arch/family.h"

namespace jang {

extern const Family kCohereFamily;
extern const Family kCohere2Family;
extern const Family kDeepseekV2Family;
extern const Family kDeepseekV3Family;
extern const Family kFalconH1Family;
extern const Family kFalconMambaFamily;
extern const Family kGemmaFamily;
extern const Family kGemma2Family;
extern const Family kGemma3TextFamily;
extern const Family kGemma4TextFamily;
extern const Family kGlm4Family;
extern const Family kGlm4MoeFamily;
extern const Family kGptOssFamily;
extern const Family kGraniteFamily;
extern const Family kGraniteMoeFamily;
extern const Family kGraniteMoeHybridFamily;
extern const Family kLlamaFamily;
extern const Family kJambaFamily;
extern const Family kLfm2Family;
extern const Family kLfm2MoeFamily;
extern const Family kMambaFamily;
extern const Family kMamba2Family;
extern const Family kMiniMaxFamily;
extern const Family kMiniMaxM2Family;
extern const Family kMistralFamily;
extern const Family kMixtralFamily;
extern const Family kNemotronHFamily;
extern const Family kOlmo2Family;
extern const Family kOlmoeFamily;
extern const Family kPhiFamily;
extern const Family kPhi3Family;
extern const Family kPhiMoeFamily;
extern const Family kQwen2Family;
extern const Family kQwen2MoeFamily;
extern const Family kQwen3Family;
extern const Family kQwen3MoeFamily;
extern const Family kQwen35Family;
extern const Family kQwen35MoeFamily;
extern const Family kQwen3NextFamily;
extern const Family kSmolLm3Family;

}  // namespace jang
