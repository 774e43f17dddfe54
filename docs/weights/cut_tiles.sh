#!/bin/sh
# Cuts labelled tiles of whole slides for `make weights`: SLIDES OUT [SLIDE_NAME ...]
#
# SLIDES holds the five nodes of the Pathology Atlas; none records its resolution, so each is cut at
# three that its cells would allow. OUT gets one folder a slide with 0 (normal) and 1 (tumour), as
# `train --extra` takes them. Negative nodes are normal everywhere. The other two are labelled by the
# polygons beside this script, which are the makers' own and not a pathologist's; what lies outside
# them is not cut. Positives lie closer together: negatives alone would teach that this stain is normal.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
slides=$1
out=$2
shift 2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# cut NAME CLASS STRIDE "MPP ..." [more options]
cut() {
    name=$1 class=$2 stride=$3 resolutions=$4
    shift 4
    [ -z "$only" ] || case " $only " in *" $name "*) ;; *) return 0 ;; esac
    mkdir -p "$out/$name/$class"
    for mpp in $resolutions; do
        histoslide tile "$slides/$name.tiff" --mpp "$mpp" --stride "$stride" --format png \
            --out "$work/$name-$class-$mpp" --quiet "$@"
        for tile in "$work/$name-$class-$mpp"/tiles/*.png; do
            mv "$tile" "$out/$name/$class/$mpp-$(basename "$tile")"
        done
    done
}

only=$*
cut node-negative-sinus 0 96 "0.5 0.57 0.65" --tissue-threshold 0.3
cut node-negative-follicles 0 96 "0.5 0.57 0.65" --tissue-threshold 0.3
cut node-hodgkin 0 96 "0.5 0.57 0.65" --tissue-threshold 0.3
cut node-metastasis 0 80 "0.45 0.5 0.55" --tissue-threshold 0.3 --roi "$here/node-metastasis-normal.geojson"
cut node-metastasis 1 48 "0.45 0.5 0.55" --roi "$here/node-metastasis-tumour.geojson"
cut node-occult-metastasis 0 96 "0.25 0.3 0.35" --tissue-threshold 0.3 --roi "$here/node-occult-metastasis-normal.geojson"
cut node-occult-metastasis 1 8 "0.25 0.3 0.35" --roi "$here/node-occult-metastasis-tumour.geojson"
