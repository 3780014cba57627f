# How the images are made; part of the Makefile. CONTAINER: docker, podman or `buildah`, whatever there is.
#   make k8s-images                              front, models, triton of `cpu-pocket`, for this machine
#   make k8s-push REGISTRY=registry.example      the same there, trainer too, and their digests into the overlays
include k8s/images/bases.env
CONTAINER ?= $(firstword $(foreach tool,docker podman buildah,$(shell command -v $(tool))) docker)
REGISTRY  ?= localhost
TAG       ?= 0.1.0
TRITON_TAG := $(TAG)-triton$(word 2,$(subst :, ,$(firstword $(subst -py3, ,$(TRITON)))))
# Debian by digest, or what `make k8s-base` made.
BASE      ?= $(DEBIAN)
BUILD_FLAGS ?=
BUILD = $(CONTAINER) build $(BUILD_FLAGS) --file k8s/images/$(1).Containerfile --tag $(REGISTRY)/sync-r1/$(1):$(2) $(3) .

.PHONY: k8s-base k8s-front k8s-models k8s-triton k8s-trainer k8s-embedded k8s-images k8s-pin k8s-push

k8s-images: k8s-front k8s-models k8s-triton

k8s-front:
	$(call BUILD,front,$(TAG),--build-arg BASE=$(BASE))

k8s-models: $(STAMP)
	rm -rf build/bundle
	digest=$$($(BIN)/sync-r1 bundle --out build/bundle) && \
	$(call BUILD,models,$(TAG),--build-arg FRONT=$(REGISTRY)/sync-r1/front:$(TAG) --build-arg BUNDLE_DIGEST=$$digest)

k8s-triton:
	$(call BUILD,triton,$(TRITON_TAG),--build-arg TRITON=$(TRITON))

k8s-trainer:
	$(call BUILD,trainer,$(TAG),--build-arg BASE=$(BASE))

# For `make k8s-test` alone.
k8s-embedded:
	$(call BUILD,embedded,$(TAG),--build-arg BASE=$(BASE) --build-arg FRONT=$(REGISTRY)/sync-r1/front:$(TAG))

# The same Debian as DEBIAN, from Debian's packages and without a registry; needs root and mmdebstrap.
k8s-base:
	mkdir -p build/base && TMPDIR=$(CURDIR)/build/base mmdebstrap --mode=root --variant=minbase --include=ca-certificates \
		--dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
		--dpkgopt='path-exclude=/usr/share/locale/*' --quiet bookworm build/base/debian.tar
	podman import --quiet build/base/debian.tar localhost/sync-r1/base:bookworm
	rm -rf build/base

# What the registries say the tags are now; needs skopeo and the network. Read the difference before you commit it.
k8s-pin:
	@for name in DEBIAN TRITON; do \
		tag=$$(sed -n "s/^$$name=\([^@]*\).*/\1/p" k8s/images/bases.env); \
		digest=$$(skopeo inspect --raw docker://$$tag | sha256sum | cut -d' ' -f1) && test $${#digest} = 64 || exit 1; \
		sed -i "s|^$$name=.*|$$name=$$tag@sha256:$$digest|" k8s/images/bases.env; \
	done; git diff --stat k8s/images/bases.env

k8s-push: k8s-images k8s-trainer
	@test $(REGISTRY) != localhost || { echo "say REGISTRY=…, the registry that your cluster pulls from" >&2; exit 2; }
	@for image in front:$(TAG) triton:$(TRITON_TAG) trainer:$(TAG); do \
		$(CONTAINER) push --quiet $(REGISTRY)/sync-r1/$$image || exit 1; \
		digest=$$(skopeo inspect --format '{{.Digest}}' docker://$(REGISTRY)/sync-r1/$$image) || exit 1; \
		for overlay in k8s/overlays/gpu* k8s/trainer; do \
			name=$${image%%:*}; test $$name = trainer -a $$overlay != k8s/trainer && continue; \
			test $$name != trainer -a $$overlay = k8s/trainer && continue; \
			sed -i "s|{name: sync-r1-$$name, .*}|{name: sync-r1-$$name, newName: $(REGISTRY)/sync-r1/$$name, newTag: $${image#*:}, digest: $$digest}|" \
				$$overlay/kustomization.yaml; \
		done; \
	done; git diff --stat k8s
