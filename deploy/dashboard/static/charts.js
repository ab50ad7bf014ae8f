// One look for all charts, light or dark, and charts that follow the size of their place.

const dark = matchMedia("(prefers-color-scheme: dark)");
const still = matchMedia("(prefers-reduced-motion: reduce)");
const made = [];

export const palette = [
  "#0e7c86", "#e07a1f", "#5b5fc7", "#c2417c", "#3f8f4f", "#b08900", "#3d7fc4", "#9a5b3c",
];

export function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

export function look() {
  return {
    ink: colour("ink"), quiet: colour("quiet"), line: colour("line"), card: colour("card"),
    accent: colour("accent"), warm: colour("warm"), good: colour("good"), bad: colour("bad"),
  };
}

export class Chart {
  constructor(id, options) {
    this.place = document.getElementById(id);
    this.options = options;
    this.data = null;
    this.chart = window.echarts.init(this.place, null, { renderer: "canvas" });
    new ResizeObserver(() => this.chart.resize()).observe(this.place);
    made.push(this);
  }

  show(data) {
    this.data = data;
    this.draw();
  }

  draw() {
    if (this.data === null) return;
    const style = look();
    this.chart.setOption(
      {
        animation: !still.matches,
        animationDuration: 300,
        textStyle: { color: style.ink, fontFamily: "inherit" },
        aria: { enabled: true },
        ...this.options(this.data, style, this.place.clientWidth < 520),
      },
      { notMerge: true, lazyUpdate: true },
    );
  }
}

dark.addEventListener("change", () => made.forEach((chart) => chart.draw()));

export function axis(style, extra = {}) {
  return {
    axisLine: { lineStyle: { color: style.line } },
    axisTick: { show: false },
    axisLabel: { color: style.quiet, fontSize: 11, hideOverlap: true },
    splitLine: { lineStyle: { color: style.line, width: 1 } },
    nameTextStyle: { color: style.quiet, fontSize: 11 },
    ...extra,
  };
}

export function tooltip(style, extra = {}) {
  return {
    backgroundColor: style.card, borderColor: style.line, confine: true,
    textStyle: { color: style.ink, fontSize: 12 }, ...extra,
  };
}

// Tooltips are HTML for the library: what comes from data is escaped.
export function safe(value) {
  return String(value).replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);
}
