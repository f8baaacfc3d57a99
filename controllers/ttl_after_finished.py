"""Jobs that ended and said how long they want to be kept.

Source: https://kubernetes.io/docs/concepts/workloads/controllers/ttlafterfinished/
"""

from datetime import UTC, datetime

from controllers.batch_views import Job
from controllers.informers import InformerFactory
from controllers.reconciler import DONE, Controller, Result
from machinery.api.meta import ObjectKey, parse_time
from machinery.api.resources import JOBS
from machinery.client.rest import Client
from machinery.errors import NotFound


class TTLAfterFinishedController(Controller[ObjectKey]):
    """Deletes a Job, with its pods, so many seconds after its end."""

    name = "ttl-after-finished"

    def __init__(self, client: Client, informers: InformerFactory) -> None:
        super().__init__()
        self._client = client
        self._jobs = informers.informer(JOBS, Job)
        self._jobs.add_handler(self._job_changed)

    def _job_changed(self, old: Job | None, new: Job | None) -> None:
        if new is not None and new.spec.ttlSecondsAfterFinished is not None and new.finished is not None:
            self.queue.add(new.metadata.key)

    async def reconcile(self, key: ObjectKey) -> Result:
        """Delete the Job when its time has come."""
        job = self._jobs.get(key)
        if job is None or job.metadata.deletionTimestamp is not None or job.spec.ttlSecondsAfterFinished is None:
            return DONE
        ended = job.finished
        if ended is None:
            return DONE
        age = (datetime.now(UTC) - parse_time(ended["lastTransitionTime"])).total_seconds()
        left = job.spec.ttlSecondsAfterFinished - age
        if left > 0:
            return Result(requeue_after=left)
        options = {
            "propagationPolicy": "Foreground",
            "preconditions": {"uid": job.metadata.uid, "resourceVersion": job.metadata.resourceVersion},
        }
        try:
            await self._client.delete(JOBS, key.name, key.namespace, options=options)
        except NotFound:
            return DONE
        return DONE
