"""A profile: which plugins a scheduler of one name has, in which order, with which weights."""

from collections.abc import Iterable, Mapping, Sequence

from scheduler.framework.plugin import ClusterPlugin, Cycle, NodePlugin, PerNodePlugin, Plugin, PostFilterPlugin
from scheduler.pods import DEFAULT_SCHEDULER, Pod


class Profile:
    """The plugins of one scheduler name. Order is that of `plugins` at every extension point."""

    def __init__(
        self,
        plugins: Sequence[Plugin],
        weights: Mapping[str, int],
        *,
        name: str = DEFAULT_SCHEDULER,
        disabled: Mapping[str, frozenset[str]] | None = None,
    ) -> None:
        """Args: `weights` of plugins that score, by name; `disabled` names plugins by extension point."""
        off = disabled or {}

        def at(point: str) -> list[Plugin]:
            return [one for one in plugins if one.name not in off.get(point, frozenset())]

        self.name = name
        self.plugins = list(plugins)
        self.filters: list[NodePlugin | ClusterPlugin] = [
            one for one in at("filter") if isinstance(one, NodePlugin | ClusterPlugin)
        ]
        self.node_plugins = [one for one in self.filters if isinstance(one, NodePlugin) and _has(one, "filter")]
        self.cluster_plugins = [one for one in self.filters if isinstance(one, ClusterPlugin) and _has(one, "filter")]
        self.pre_filters = [one for one in self.filters if isinstance(one, ClusterPlugin) and _has(one, "pre_filter")]
        self.filters = [one for one in self.filters if _has(one, "filter")]
        scoring = [one for one in at("score") if _has(one, "score") and weights.get(one.name, 0) > 0]
        self.node_scorers = [(one, weights[one.name]) for one in scoring if isinstance(one, NodePlugin)]
        self.cluster_scorers = [(one, weights[one.name]) for one in scoring if isinstance(one, ClusterPlugin)]
        self.post_filters = [one for one in at("postFilter") if isinstance(one, PostFilterPlugin)]
        self.pre_enqueues = [one for one in at("preEnqueue") if _has(one, "pre_enqueue")]
        self.reserves = [one for one in at("reserve") if _has(one, "reserve") or _has(one, "unreserve")]
        self.permits = [one for one in at("permit") if _has(one, "permit")]
        self.pre_binds = [one for one in at("preBind") if _has(one, "pre_bind")]
        self.binds = [one for one in at("bind") if _has(one, "bind")]
        self.post_binds = [one for one in at("postBind") if _has(one, "post_bind")]
        self.by_name = {one.name: one for one in plugins}

    def scores_of_cluster(self, cycle: Cycle) -> bool:
        """Say whether any plugin that looks beyond the node has something to say on this pod's scores."""
        return any(one.scores(cycle) for one, _ in self.cluster_scorers)

    def gated(self, pod: Pod) -> str:
        """Return why a pod may not be tried yet; nothing when it may."""
        return next((text for one in self.pre_enqueues if (text := one.pre_enqueue(pod))), "")

    def named(self, names: Iterable[str]) -> list[Plugin]:
        """Return the plugins of these names."""
        return [self.by_name[name] for name in names if name in self.by_name]


def _has(plugin: Plugin, method: str) -> bool:
    """Say whether a plugin has a part at an extension point."""
    if isinstance(plugin, PerNodePlugin):
        method = {"filter": "allows", "score": "rates"}.get(method, method)
    own = getattr(type(plugin), method, None)
    return own is not None and all(
        own is not getattr(base, method, None) for base in (Plugin, NodePlugin, PerNodePlugin, ClusterPlugin)
    )
