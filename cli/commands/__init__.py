"""One verb, or a few that belong together, a file. This table alone is read at start; it says where each verb is."""

from cli.framework import Source

_BASIC, _CHANGE, _DEPLOY, _PODS = "Look", "Change", "Deploy", "Containers"
_MANAGE, _SETTINGS, _NODE = "Manage the cluster", "Settings", "As with Docker"


def _in(section: str, **places: str) -> dict[str, Source]:
    """Return sources of one section; each place is "module:attribute|help"."""
    found = {}
    for name, text in places.items():
        place, _, words = text.partition("|")
        found[name.strip("_").replace("_", "-")] = Source(f"cli.commands.{place}", words, section)
    return found


COMMANDS: dict[str, Source] = {
    **_in(
        _BASIC,
        get="get:get|Show objects",
        describe="describe:describe|Tell of objects at length",
        explain="explain:explain|Show what fields a kind has",
        events="events:events|List events",
        timeline="timeline:timeline|Show what happened to a pod, with durations",
        ui="ui:ui|Browse the cluster and act on it by single keys",
        tree="tree:tree|Show what an object owns",
        api_resources="discovery:api_resources|List the kinds the server knows",
        api_versions="discovery:api_versions|List the API versions the server knows",
        version="discovery:version|Show the versions of client and server",
        cluster_info="discovery:cluster_info|Show where the cluster is",
    ),
    **_in(
        _CHANGE,
        apply="apply:apply|Bring objects to what manifests say",
        create="create:create|Create objects from files or arguments",
        delete="delete:delete|Delete objects",
        diff="diff:diff|Show what apply would change",
        edit="edit:edit|Change objects in an editor",
        patch="patch:patch_|Change fields of an object",
        replace="replace:replace|Replace objects by what manifests say",
        label="metadata:label|Set labels",
        annotate="metadata:annotate|Set annotations",
        kustomize="kustomize:kustomize|Print what a kustomization makes",
        wait="wait:wait|Wait until something holds, or a container ends",
    ),
    **_in(
        _DEPLOY,
        scale="scale:scale|Set how many replicas there are to be",
        autoscale="expose:autoscale|Let the number of replicas follow the load",
        expose="expose:expose|Make a service for pods",
        rollout="rollout:rollout|Look at, stop and turn back how workloads are rolled out",
        set_="set:set_|Set images, environment, resources and more",
    ),
    **_in(
        _PODS,
        run="run:run|Run a container",
        logs="logs:logs|Show what containers print",
        exec_="exec:exec_|Run a command in a container",
        attach="exec:attach|Attach to a running container",
        cp="copy:cp|Copy files to and from containers",
        port_forward="forward:port_forward|Forward local ports to a pod",
        debug="debug:debug|Run a container for looking into a pod or node",
        top="top:top|Show how much CPU and memory is used",
    ),
    **_in(
        _MANAGE,
        cordon="node:cordon|Keep new pods off a node",
        uncordon="node:uncordon|Let new pods onto a node",
        drain="drain:drain|Empty a node",
        taint="node:taint|Set taints of nodes",
        certificate="certificate:certificate|Approve and deny certificate requests",
        auth="auth:auth|See who we are and what we may do",
        proxy="forward:proxy|Serve the API on a local port",
    ),
    **_in(
        _NODE,
        ps="containers:ps|List containers",
        stop="containers:stop|Stop containers",
        kill="containers:kill|Send a signal to containers",
        start="containers:start|Start containers that have ended",
        restart="containers:restart|Stop containers and start them again",
        rm="containers:rm|Remove containers",
        port="containers:port|Show which ports of the host lead to a container",
        stats="containers:stats|Show how much containers use",
        volume="volumes:volume|Named volumes of this node",
        network="volumes:network|Networks: what the cluster has of them",
        container="docker_groups:container|The same verbs, as `container ls`",
        image="docker_groups:image|The same verbs, as `image ls`",
        system="containers:system|See and free what containers and images take",
        build="build:build|Build an image from a Dockerfile",
        compose="compose:compose|Run the services of a Compose file",
        pull="images:pull|Fetch images from their registries",
        push="images:push|Send an image to its registry",
        images="images:images|List this node's images",
        rmi="images:rmi|Remove images from this node",
        inspect="images:inspect|Tell all of containers and images, as JSON",
        history="images:history|Show what an image was made of",
        tag="images:tag|Give an image one more name",
        save="images:save|Write an image to a tar archive",
        load="images:load|Read images from a tar archive",
        login="images:login|Remember who we are at a registry",
        logout="images:logout|Forget who we are at a registry",
    ),
    **_in(
        _SETTINGS,
        config="config:config|Change kubeconfig files",
        completion="completion:completion|Print a shell's completion script",
        plugin="plugin:plugin|List plugins",
        options="plugin:options_|List the options all commands take",
    ),
}
