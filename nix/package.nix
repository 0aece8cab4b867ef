# The package; `services.matrix-conduit.package` of NixOS takes it in place of the one it comes with.
{
  lib,
  stdenv,
  rustPlatform,
}:

rustPlatform.buildRustPackage {
  pname = "matrix-conduit";
  version = (lib.importTOML ../Cargo.toml).package.version;

  src = lib.fileset.toSource {
    root = ../.;
    fileset = lib.fileset.unions [
      ../Cargo.toml
      ../Cargo.lock
      ../src
      ../benches
      ../tests
    ];
  };
  cargoLock.lockFile = ../Cargo.lock;

  # RocksDB's bindings are made with libclang while building.
  nativeBuildInputs = [ rustPlatform.bindgenHook ];

  # The memory allocator must know the largest page that a kernel may use: a Raspberry Pi 5 has 16 KiB.
  env = lib.optionalAttrs stdenv.hostPlatform.isAarch64 { JEMALLOC_SYS_WITH_LG_PAGE = "16"; };

  # They need sockets, and are run before a release: `make test`.
  doCheck = false;

  meta = {
    description = "Light Matrix homeserver for people";
    license = lib.licenses.asl20;
    mainProgram = "conduit";
    platforms = lib.platforms.linux;
  };
}
