#!/usr/bin/env bash
# Download, verify and unpack COCO 2017, about 20 GB: scripts/download_coco.sh [DIR]     (default: datasets/coco)
# Run it again to continue an interrupted download. COCO_URL sets a different source, which may be file:///a/folder.
set -euo pipefail

folder=${1:-datasets/coco}
source_url=${COCO_URL:-http://images.cocodataset.org}
# Fields: file name, path on the server, published MD5, folder that the archive unpacks to.
archives=(
    "annotations_trainval2017.zip annotations ${COCO_ANNOTATIONS_MD5:-f4bbac642086de4f52a3fdda2de5fa2c} annotations"
    "val2017.zip zips ${COCO_VAL_MD5:-442b8da7639aecaf257c1dceb8ba8c80} val2017"
    "train2017.zip zips ${COCO_TRAIN_MD5:-cced6f7f71b7629ddf16f17bbcfab6b2} train2017"
)
for tool in curl md5sum python3; do
    command -v "$tool" >/dev/null || { echo "download_coco: requires $tool, which is not installed" >&2; exit 1; }
done

mkdir -p "$folder"
cd "$folder"
for entry in "${archives[@]}"; do
    read -r name path md5 unpacked <<<"$entry"
    if [[ -e $unpacked/.complete ]]; then
        echo "download_coco: $folder/$unpacked is complete, skipped"
        continue
    fi
    if ! md5sum --status -c - <<<"$md5  $name" 2>/dev/null; then
        # Skip curl if the file is complete but not yet renamed: curl fails if there is nothing left to download.
        if ! md5sum --status -c - <<<"$md5  $name.partial" 2>/dev/null; then
            echo "download_coco: $source_url/$path/$name"
            curl --fail --location --retry 5 --continue-at - --output "$name.partial" "$source_url/$path/$name"
        fi
        if ! md5sum --status -c - <<<"$md5  $name.partial"; then
            rm -f "$name.partial"
            echo "download_coco: the MD5 of $name is not $md5; the file was removed, run this again" >&2
            exit 1
        fi
        mv "$name.partial" "$name"
    fi
    echo "download_coco: unpacking $name"
    python3 -m zipfile -e "$name" .
    touch "$unpacked/.complete"
    rm -f "$name"
done
echo "download_coco: COCO is in $folder; retinanet train r50_fpn_1x reads datasets/coco"
