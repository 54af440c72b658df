# What the entrypoint of chrislusf/seaweedfs adds to the command "server".
exec /usr/bin/weed -logtostderr=true "$@" -dir=/data -volume.max=0 -master.volumeSizeLimitMB=1024
