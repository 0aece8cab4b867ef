# `make run` starts a server, `make test` runs every test; each does its own set-up.
# Both use cargo's dev profile, whose dependencies are optimised: RocksDB and ruma are compiled once for both.

export CC := ccache cc
export CXX := ccache c++

# The memory allocator must know the largest page that a kernel for this processor may use: a Raspberry Pi 5 has 16 KiB.
ifeq ($(shell uname -m),aarch64)
export JEMALLOC_SYS_WITH_LG_PAGE := 16
endif

.PHONY: run test lint release deb docs bench

run: setup
	cargo run

test: setup bridge synapse
	cargo test

lint: setup
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings

# The small, fast binary that packages ship.
release: setup
	cargo build --release

# A Debian package, in the folder above.
deb:
	@.ci/setup dpkg-dev debhelper
	dpkg-buildpackage --build=binary --no-sign --no-check-builddeps

# The figures of docs/performance.md.
bench: setup
	cargo bench

.PHONY: setup bridge synapse
setup:
	@.ci/setup
bridge: setup
	@.ci/venv bridge tests/clients/requirements.txt
synapse: setup
	@.ci/venv synapse tests/peers/requirements.txt
