# Fine-tunes a light model without one node at a time, and scores that node before and after:
# leave_out.sh SLIDES TILES PATCHES BUNDLE OUT. TILES is what cut_tiles.sh made, PATCHES holds
# train/{0,1} and valid/{0,1}, BUNDLE has learnt patches alone. Then gather_slides.py makes the table.
set -e
slides=$1 tiles=$2 patches=$3 bundle=$4 out=$5
nodes="node-negative-sinus node-negative-follicles node-hodgkin node-occult-metastasis node-metastasis"
for node in $nodes; do
  extra=""
  for other in $nodes; do [ "$other" = "$node" ] || extra="$extra --extra $tiles/$other"; done
  histoslide train "$patches" $extra --recipe pcam-robust --epochs 1 --lr 5e-4 --pretrained "$bundle" \
    --class-names normal tumour --half --name "without-$node" --out "$out/$node.safetensors"
  case $node in node-occult*) mpp=0.3 ;; node-metastasis) mpp=0.5 ;; *) mpp=0.57 ;; esac
  histoslide score "$slides/$node.tiff" --mpp $mpp --model "$bundle" --out "$out/$node-before.zarr"
  histoslide score "$slides/$node.tiff" --mpp $mpp --model "$out/$node.safetensors" --out "$out/$node-after.zarr"
done
