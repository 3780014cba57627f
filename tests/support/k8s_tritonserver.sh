#!/bin/sh
# `tritonserver` of the test image (k8s/images/embedded.Containerfile): the binary of the nvidia-pytriton wheel with its Python
# backend, told what the manifests tell NVIDIA's image, less the one option that it is too old to know.
set -eu
wheel=$(echo /opt/triton/lib/python3.*/site-packages)
python=$(basename "$(dirname "$wheel")" | sed s/python//)
mkdir -p /tmp/backends/python
ln -sf "$wheel"/pytriton/tritonserver/backends/python/* /tmp/backends/python/
ln -sf "$wheel/pytriton/tritonserver/python_backend_stubs/$python/triton_python_backend_stub" /tmp/backends/python/
export LD_LIBRARY_PATH="/usr/lib/x86_64-linux-gnu:$wheel/nvidia_pytriton.libs"
export PATH="/opt/triton/bin:$PATH"
for option; do
    shift
    case $option in --allow-client-shm=*) ;; *) set -- "$@" "$option" ;; esac
done
exec "$wheel/pytriton/tritonserver/bin/tritonserver" --backend-directory=/tmp/backends "$@"
