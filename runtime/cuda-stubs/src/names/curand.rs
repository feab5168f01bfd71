// Written by `cargo xtask stubs`: 27 functions.

crate::trampoline::trampolines! { CURAND;
    status curandCreateGenerator;
    status curandCreateGeneratorHost;
    status curandCreatePoissonDistribution;
    status curandDestroyDistribution;
    status curandDestroyGenerator;
    status curandGenerate;
    status curandGenerateLogNormal;
    status curandGenerateLogNormalDouble;
    status curandGenerateLongLong;
    status curandGenerateNormal;
    status curandGenerateNormalDouble;
    status curandGeneratePoisson;
    status curandGeneratePoissonMethod;
    status curandGenerateSeeds;
    status curandGenerateUniform;
    status curandGenerateUniformDouble;
    status curandGetDirectionVectors32;
    status curandGetDirectionVectors64;
    status curandGetProperty;
    status curandGetScrambleConstants32;
    status curandGetScrambleConstants64;
    status curandGetVersion;
    status curandSetGeneratorOffset;
    status curandSetGeneratorOrdering;
    status curandSetPseudoRandomGeneratorSeed;
    status curandSetQuasiRandomGeneratorDimensions;
    status curandSetStream;
}
