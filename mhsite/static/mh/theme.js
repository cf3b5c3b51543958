// What the theme's templates name in their attributes, for the build of Alpine that evaluates no code
// (the content security policy allows none). Loaded before Alpine starts.

document.addEventListener("alpine:init", () => {
  const { Alpine } = window;
  // Functions of the theme's app.js, which templates call by name.
  for (const name of ["theme", "searchForm", "searchDropdown"]) {
    if (typeof window[name] === "function") {
      Alpine.data(name, window[name]);
    }
  }

  /** The frame of every page: the sidebar, and the tabs of a form. */
  Alpine.data("shell", () => ({
    activeTab: "",
    // What the theme's form asks of the browser's own, which its expressions do not reach.
    window: { location: { pathname: window.location.pathname, search: window.location.search } },
    sidebarMobileOpen: false,
    sidebarDesktopOpen: localStorage.getItem("sidebarDesktopOpen") !== "0",
    init() {
      const asked = typeof window.getCurrentTab === "function" ? window.getCurrentTab() : "";
      this.activeTab = asked || this.$el.dataset.tab || "";
    },
    toggleSidebar() {
      if (window.matchMedia("(width >= 80rem)").matches) {
        this.sidebarDesktopOpen = !this.sidebarDesktopOpen;
        localStorage.setItem("sidebarDesktopOpen", this.sidebarDesktopOpen ? "1" : "0");
      } else {
        this.sidebarMobileOpen = !this.sidebarMobileOpen;
      }
    },
  }));
});
