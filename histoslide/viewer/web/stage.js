// The slide under OpenSeadragon, and the canvas over it that everything else is drawn on.

import { slideTileAddress } from "./api.js";

const OpenSeadragon = window.OpenSeadragon;
const SMALLEST_TILE_LEVEL_PX = 256;
const MARGIN = 1.6;

export class Stage {
  /** `paint(context, view)` draws one frame; `onMove` is called when the view has changed. */
  constructor(elements, { paint, onMove }) {
    this.canvas = elements.overlay;
    this.element = elements.osd;
    this.paint = paint;
    this.onMove = onMove;
    this.slide = null;
    this.viewer = OpenSeadragon({
      element: elements.osd,
      drawer: "canvas",
      showNavigationControl: false,
      showNavigator: true,
      navigatorPosition: "TOP_RIGHT",
      navigatorSizeRatio: 0.16,
      navigatorAutoFade: false,
      navigatorBackground: "#fff",
      navigatorBorderColor: "#888",
      navigatorOpacity: 1,
      maxZoomPixelRatio: 6,
      minZoomImageRatio: 0.4,
      visibilityRatio: 0.3,
      animationTime: 0.6,
      springStiffness: 9,
      zoomPerScroll: 1.4,
      imageLoaderLimit: 4,
      timeout: 60000,
      crossOriginPolicy: false,
      gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true },
      gestureSettingsTouch: { pinchRotate: false },
    });
    this.viewer.canvas.append(this.canvas); // under OpenSeadragon's own controls
    this.viewer.canvas.setAttribute("aria-label", "Slide: arrow keys move, plus and minus zoom");
    this.viewer.addHandler("update-viewport", () => this.draw());
    this.viewer.addHandler("animation", () => this.onMove());
    this.viewer.addHandler("resize", () => this.redraw());
  }

  /** Put a slide up; resolves when its place is known. */
  open(key, slide) {
    this.slide = slide;
    const [width, height] = slide.size_l0;
    const smaller = Math.log2(Math.max(width, height) / SMALLEST_TILE_LEVEL_PX);
    const minLevel = Math.max(0, slide.max_level - Math.max(0, Math.ceil(smaller)));
    return new Promise((resolve, reject) => {
      this.viewer.addOnceHandler("open", resolve);
      this.viewer.addOnceHandler("open-failed", (event) => reject(new Error(event.message)));
      this.viewer.open({
        width,
        height,
        tileSize: slide.tile_px,
        tileOverlap: slide.overlap_px,
        minLevel,
        maxLevel: slide.max_level,
        getTileUrl: (level, col, row) => slideTileAddress(key, slide.version, level, col, row),
      });
    });
  }

  /** What is seen: see HeatLayer.draw. `mpp` is micrometres a pixel of the screen. */
  get view() {
    const item = this.viewer.world.getItemAt(0);
    if (!item) return null;
    const corner = item.imageToViewerElementCoordinates(new OpenSeadragon.Point(0, 0));
    const far = item.imageToViewerElementCoordinates(new OpenSeadragon.Point(this.slide.size_l0[0], 0));
    const scale = (far.x - corner.x) / this.slide.size_l0[0];
    const { clientWidth: width, clientHeight: height } = this.element;
    return { scale, x: -corner.x / scale, y: -corner.y / scale, width, height, mpp: this.slide.mpp / scale };
  }

  /** Centre a level-0 point at so many micrometres a screen pixel. */
  lookAt(x, y, mpp, { immediately = false } = {}) {
    const { viewport } = this.viewer;
    const across = (this.element.clientWidth * mpp) / this.slide.mpp / this.slide.size_l0[0];
    viewport.zoomTo(1 / across, null, immediately);
    viewport.panTo(this.#toViewport(x, y), immediately);
    if (!immediately) viewport.applyConstraints();
    this.redraw();
  }

  /** Fly to a box of level-0 pixels, with some room around it. */
  flyTo([x, y, width, height], { immediately = false } = {}) {
    const bySide = (side, screen) => (side * MARGIN * this.slide.mpp) / screen;
    const { clientWidth, clientHeight } = this.element;
    const mpp = Math.max(bySide(width, clientWidth), bySide(height, clientHeight), 0.5);
    this.lookAt(x + width / 2, y + height / 2, mpp, { immediately });
  }

  fit() {
    this.viewer.viewport.goHome();
  }

  zoomBy(factor) {
    this.viewer.viewport.zoomBy(factor);
    this.viewer.viewport.applyConstraints();
  }

  zoomToMpp(mpp) {
    const { view } = this;
    this.lookAt(view.x + view.width / view.scale / 2, view.y + view.height / view.scale / 2, mpp);
  }

  redraw() {
    this.viewer.forceRedraw();
  }

  draw() {
    const { view, canvas } = this;
    if (!view) return;
    const ratio = window.devicePixelRatio || 1;
    const [width, height] = [Math.round(view.width * ratio), Math.round(view.height * ratio)];
    if (canvas.width !== width || canvas.height !== height) {
      canvas.width = width;
      canvas.height = height;
    }
    const context = canvas.getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, view.width, view.height);
    this.paint(context, view);
  }

  /** Slide and overlay together on a new canvas, in screen pixels. */
  picture() {
    const canvas = document.createElement("canvas");
    canvas.width = this.canvas.width;
    canvas.height = this.canvas.height;
    const context = canvas.getContext("2d");
    context.fillStyle = "#fff";
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.drawImage(this.viewer.drawer.canvas, 0, 0, canvas.width, canvas.height);
    context.drawImage(this.canvas, 0, 0);
    return canvas;
  }

  #toViewport(x, y) {
    return this.viewer.world.getItemAt(0).imageToViewportCoordinates(x, y);
  }
}
