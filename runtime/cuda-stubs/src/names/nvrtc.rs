// Written by `cargo xtask stubs`: 24 functions.

crate::trampoline::trampolines! { NVRTC;
    status nvrtcAddNameExpression;
    status nvrtcCompileProgram;
    status nvrtcCreateProgram;
    status nvrtcDestroyProgram;
    status nvrtcGetBundledHeadersInfo;
    status nvrtcGetCUBIN;
    status nvrtcGetCUBINSize;
    text nvrtcGetErrorString;
    status nvrtcGetLTOIR;
    status nvrtcGetLTOIRSize;
    status nvrtcGetLoweredName;
    status nvrtcGetNumSupportedArchs;
    status nvrtcGetOptiXIR;
    status nvrtcGetOptiXIRSize;
    status nvrtcGetPTX;
    status nvrtcGetPTXSize;
    status nvrtcGetProgramLog;
    status nvrtcGetProgramLogSize;
    status nvrtcGetSupportedArchs;
    status nvrtcGetTileIR;
    status nvrtcGetTileIRSize;
    status nvrtcInstallBundledHeaders;
    status nvrtcRemoveBundledHeaders;
    status nvrtcVersion;
}
